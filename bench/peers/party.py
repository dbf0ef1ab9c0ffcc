"""What the two parties of encrypted inference have in common: their task, and how it is timed and counted.

Party 0 owns the model, party 1 the image. An inference goes from sharing the image to logits that are revealed to
party 1; shares of the model are made before. Standard library only: each peer has other packages.
"""

import argparse
import json
import os
import resource
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODEL_OWNER, DATA_OWNER = 0, 1
_SENT = 200  # of struct tcp_info: tcpi_bytes_sent, Linux 4.19 and newer


@dataclass(frozen=True)
class Task:
    """What the launcher asked of this party."""

    rank: int
    file: Path
    repeats: int
    ports: tuple[int, int]


def task() -> Task:
    """Of the command line: rank, file (an npz, an ONNX file beside it), repeats, two ports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rank", type=int)
    parser.add_argument("file", type=Path)
    parser.add_argument("repeats", type=int)
    parser.add_argument("ports", type=int, nargs=2)
    chosen = parser.parse_args()
    return Task(chosen.rank, chosen.file, chosen.repeats, tuple(chosen.ports))


def tcp_sent() -> int:
    """Bytes that this process gave to the TCP connections which it has now, without headers."""
    return sum(_sent_by(int(entry.name)) for entry in Path("/proc/self/fd").iterdir())


def _sent_by(descriptor: int) -> int:
    """Of one descriptor; 0 for what is no TCP connection."""
    try:
        copy = os.dup(descriptor)
    except OSError:
        return 0
    try:
        connection = socket.socket(fileno=copy)
    except OSError:  # no socket: then the copy stays ours to close
        os.close(copy)
        return 0
    try:
        with connection:
            state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SENT + 8)
    except OSError:
        return 0
    return int(struct.unpack_from("Q", state, _SENT)[0]) if len(state) == _SENT + 8 else 0


def loopback_sent() -> int:
    """Bytes over the loopback interface, with headers, of every process on this machine."""
    return int(Path("/sys/class/net/lo/statistics/tx_bytes").read_text())


def processor_seconds() -> float:
    """Of all threads of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(asked: Task, barrier: Callable[[], Any], infer: Callable[[int], list[float]]) -> None:
    """Print the times, bytes and logits of `infer(image)`, one image after another, after one that is not counted."""
    infer(0)
    found: dict[str, list[Any]] = {"seconds": [], "processor": [], "sent": [], "loopback": [], "logits": []}
    for number in range(asked.repeats):
        barrier()
        counts = (processor_seconds(), tcp_sent(), loopback_sent())
        barrier()  # neither begins while the other still counts
        began = time.perf_counter()
        logits = infer(number)
        found["seconds"].append(time.perf_counter() - began)
        barrier()
        found["processor"].append(processor_seconds() - counts[0])
        found["sent"].append(tcp_sent() - counts[1])
        found["loopback"].append(loopback_sent() - counts[2])
        found["logits"].append(logits)
    print(json.dumps(found), flush=True)
