"""Encrypted inference with CrypTen and SPU: `python -m bench.inference_peers r18_224 --repeats 3`.

Two parties, each a process of its own on the loopback interface with one computing thread; triples by a trusted first
party, made inside the measured time. One image at a time, from sharing it to logits revealed to its owner, after one
image that is not counted; the model is shared before. A repeat takes as long as its slower party.
Peers are installed once, pinned (`bench/peers/*.txt`), into `.bench/inference`; their programs are in `bench/peers`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table

from bench.inference_models import WORKLOADS, images, plain, write
from primum.ports import free_port

CORES = 2
PATIENCE = 900.0  # seconds, for one peer on one workload
_REPOSITORY = Path(__file__).resolve().parent.parent
_INSTALLED = _REPOSITORY / ".bench" / "inference"
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class PeerError(Exception):
    """A peer could not be installed, or does not run a workload; the message names it and says why."""


@dataclass(frozen=True)
class PeerResult:
    """Of one image after another: seconds each; bytes and processor seconds an image, of both parties together.

    `sent_bytes` went into TCP connections. `loopback_bytes` crossed the interface, with headers, and with whatever
    else the machine sent to itself: the least of the repeats. `logits` [repeats, classes] are those of
    `images(workload)` in order, from the start again after the last.
    """

    seconds: list[float]
    sent_bytes: int
    loopback_bytes: int
    processor_seconds: float
    logits: npt.NDArray[np.float64]

    @property
    def best(self) -> float:
        """Seconds."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """Seconds."""
        return median(self.seconds)

    def error(self, workload: str) -> float:
        """The largest difference from the logits in the clear."""
        expected = plain(workload, images(workload)).numpy()
        return float(np.abs(self.logits - np.resize(expected, self.logits.shape)).max())


def crypten(workload: str, repeats: int) -> PeerResult:
    """CrypTen 0.4.1, with the project's own torch; PeerError where it does not run."""
    with explained("CrypTen", workload):
        install("crypten", "--no-deps", "--target", str(_INSTALLED / "crypten"))
        return together([sys.executable, "-m", "bench.peers.crypten_party"], workload, repeats)


def spu(workload: str, repeats: int) -> PeerResult:
    """SPU 0.9.5, SEMI2K in a 64-bit ring; PeerError where it does not run."""
    python = str(_INSTALLED / "spu" / "bin" / "python")
    with explained("SPU", workload):
        install("spu", python=python)
        return together([python, "-m", "bench.peers.spu_party"], workload, repeats)


PEERS = {"crypten": crypten, "spu": spu}


def attempt(peer: str, workload: str, repeats: int) -> PeerResult | None:
    """The same, but None, with the reason on the error stream, where the peer does not run."""
    try:
        return PEERS[peer](workload, repeats)
    except PeerError as error:
        print(error, file=sys.stderr)
        return None


def plain_seconds(workload: str, repeats: int = 9) -> float:
    """PyTorch in float32 in the clear, one image, as many threads as the two parties have: the median."""
    inputs, threads, times = images(workload, 1), torch.get_num_threads(), []
    torch.set_num_threads(CORES)
    for _ in range(repeats + 2):
        began = time.perf_counter()
        plain(workload, inputs)
        times.append(time.perf_counter() - began)
    torch.set_num_threads(threads)
    return median(times[2:])


def install(name: str, *options: str, python: str = sys.executable) -> None:
    """`bench/peers/<name>.txt` into `.bench/inference/<name>`, unless it is there; a changed list starts afresh."""
    folder, requirements = _INSTALLED / name, _REPOSITORY / "bench" / "peers" / f"{name}.txt"
    mark = folder / "installed.txt"
    if mark.is_file() and mark.read_bytes() == requirements.read_bytes():
        return
    shutil.rmtree(folder, ignore_errors=True)
    if python != sys.executable:
        quietly([sys.executable, "-m", "venv", str(folder)])
    quietly([python, "-m", "pip", "install", "-q", *options, "-r", str(requirements)])
    shutil.copy(requirements, mark)


def quietly(command: list[str]) -> None:
    """Run; what it printed is part of the error."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise PeerError(last_line(done.stdout))


@contextmanager
def explained(name: str, workload: str) -> Iterator[None]:
    """A failure, with the peer and the workload in front."""
    try:
        yield
    except (PeerError, OSError) as error:
        raise PeerError(f"{name} does not run {workload}: {error}") from error


def together(command: list[str], workload: str, repeats: int) -> PeerResult:
    """What both parties measured."""
    file = write(workload) / f"{workload}.npz"
    parties = outputs(command, [str(file), str(repeats), str(free_port()), str(free_port())])
    sent, loopback, processor, seconds = (
        np.array([party[key] for party in parties]) for key in ("sent", "loopback", "processor", "seconds")
    )
    return PeerResult(
        seconds=seconds.max(0).tolist(),
        sent_bytes=int(sent.sum(0).min()),
        loopback_bytes=int(loopback.min()),
        processor_seconds=float(np.median(processor.sum(0))),
        logits=np.array(parties[1]["logits"]),
    )


def outputs(command: list[str], arguments: list[str]) -> list[dict[str, Any]]:
    """The last line of each party's output. Where one fails the other is stopped: it would wait for ever."""
    environment = {**os.environ, **dict.fromkeys(_THREADS, "1"), "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryDirectory() as folder:
        printed = [Path(folder) / str(rank) for rank in range(2)]
        running: list[subprocess.Popen[bytes]] = []
        try:
            for rank, path in enumerate(printed):
                with path.open("wb") as out, path.with_suffix(".err").open("wb") as err:
                    whole = [command[0], *command[1:], str(rank), *arguments]
                    running.append(subprocess.Popen(whole, stdout=out, stderr=err, env=environment, cwd=_REPOSITORY))
            failed = wait(running)
        finally:
            for process in running:
                process.kill()
                process.wait()
        if failed is not None:
            raise PeerError(f"party {failed}: {last_line(printed[failed].with_suffix('.err').read_text())}")
        return [json.loads(path.read_text().splitlines()[-1]) for path in printed]


def wait(running: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Until all are done, or one has failed: its number."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        states = [process.poll() for process in running]
        for number, state in enumerate(states):
            if state:
                return number
        if None not in states:
            return None
        time.sleep(0.05)
    raise PeerError(f"no answer within {PATIENCE:.0f} s")


def last_line(text: str) -> str:
    """In which Python and pip say what went wrong."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"


def table(workload: str, results: dict[str, PeerResult | None], clear: float) -> Table:
    """For people."""
    drawn = Table(title=f"{WORKLOADS[workload].title}: one image; in the clear {1000 * clear:.3g} ms")
    for column in ("peer", "best s", "median s", "sent MB", "loopback MB", "processor s", "logit error"):
        drawn.add_column(column, justify="left" if column == "peer" else "right")
    for name, found in results.items():
        values: list[float] = []
        if found:
            sizes = (found.sent_bytes / 1e6, found.loopback_bytes / 1e6)
            values = [found.best, found.median, *sizes, found.processor_seconds, found.error(workload)]
        drawn.add_row(name, *(f"{value:,.4g}" for value in values))
    return drawn


def main() -> int:
    """Print a table for each workload, then a line of JSON: best seconds of each peer."""
    parser = argparse.ArgumentParser(prog="python -m bench.inference_peers", description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    chosen = parser.parse_args()
    if unknown := set(chosen.workloads) - set(WORKLOADS):
        parser.error(f"no workload {', '.join(sorted(unknown))}; there are {', '.join(WORKLOADS)}")
    figures = {}
    for workload in chosen.workloads or WORKLOADS:
        results = {peer: attempt(peer, workload, chosen.repeats) for peer in chosen.peers}
        Console(width=120).print(table(workload, results, plain_seconds(workload)))
        figures.update({f"{peer}_{workload}_s": round(found.best, 3) for peer, found in results.items() if found})
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
