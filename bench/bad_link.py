"""A bad network as a TCP proxy: a bandwidth for each way, a delay, lost packets, and a break of all connections.

It stands where `tc netem` would, for machines whose kernel has none. Each connection has a congestion window as TCP has
one (slow start; one segment more a round trip; 0.7 of it after a loss, as CUBIC), and sends a window a round trip. A
lost segment holds back what comes after it for one round trip. All connections of a way share its bandwidth. A break
resets all connections and refuses new ones for a moment.
"""

import random
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

SEGMENT: Final = 1448
_BUFFER: Final = 1 << 16
_RESET: Final = struct.pack("ii", 1, 0)
_FIRST_WINDOW: Final = 10 * SEGMENT


@dataclass(frozen=True)
class Quality:
    """`rate` in bytes a second each way; `round_trip` in seconds; `loss` of packets; `every` and `away`: seconds between
    breaks and of a break, 0 for none."""

    rate: float
    round_trip: float = 0.04
    loss: float = 0.0
    every: float = 0.0
    away: float = 0.0


class Pipe:
    """The bandwidth of one way, shared by all connections: who sends waits until its bytes have gone."""

    def __init__(self, rate: float) -> None:
        self.rate, self._free, self._lock = rate, time.monotonic(), threading.Lock()

    def send(self, size: int) -> None:
        """Returns when `size` bytes would have left."""
        with self._lock:
            self._free = max(self._free, time.monotonic()) + size / self.rate
            until = self._free
        time.sleep(max(0.0, until - time.monotonic()))


class BadLink:
    """A proxy on 127.0.0.1:`port` before `target`. `carried`: bytes each way, also of what a break destroyed."""

    def __init__(self, target: int, quality: Quality, seed: int = 0) -> None:
        self.target, self.quality = target, quality
        self.carried, self.breaks = {"up": 0, "down": 0}, 0
        self._random, self._over = random.Random(seed), threading.Event()
        self._pipes = {"up": Pipe(quality.rate), "down": Pipe(quality.rate)}
        self._open: set[socket.socket] = set()
        self._lock, self._back = threading.Lock(), 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._next_break = time.monotonic() + quality.every
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._accept, self._break_often)]
        for thread in self._threads:
            thread.start()

    def change(self, quality: Quality) -> None:
        """Another quality from now on."""
        self._next_break = time.monotonic() + quality.every
        for pipe in self._pipes.values():
            pipe.rate = quality.rate
        self.quality = quality

    def cut(self) -> None:
        """Reset all connections; nobody gets through for `away` seconds."""
        with self._lock:
            self._back = time.monotonic() + self.quality.away
            cut, self._open = self._open, set()
        self.breaks += 1
        for end in cut:
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it; its connections break."""
        self._over.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self.cut()
        for thread in self._threads:
            thread.join(timeout=5)
        self._listener.close()

    def _break_often(self) -> None:
        while not self._over.wait(0.02):
            if self.quality.every and time.monotonic() >= self._next_break:
                self._next_break += self.quality.every
                self.cut()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._join, args=(near,), daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        if time.monotonic() < self._back:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            near.close()
            return
        time.sleep(self.quality.round_trip)  # its handshake
        far = socket.socket()
        for end in (near, far):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)  # else the kernel takes in megabytes at once
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            far.connect(("127.0.0.1", self.target))
        except OSError:
            near.close()
            far.close()
            return
        with self._lock:
            self._open |= {near, far}
        ways = [
            threading.Thread(target=self._carry, args=args, daemon=True)
            for args in ((near, far, "up"), (far, near, "down"))
        ]
        for way in ways:
            way.start()
        for way in ways:
            way.join()
        for end in (near, far):
            end.close()
        with self._lock:
            self._open -= {near, far}

    def _carry(self, one: socket.socket, other: socket.socket, way: str) -> None:
        window, threshold, last = float(_FIRST_WINDOW), float("inf"), 0.0
        pipe = self._pipes[way]
        with suppress(OSError):
            while True:
                quality, began = self.quality, time.monotonic()
                data = one.recv(max(SEGMENT, int(window)))
                if not data:
                    break
                segments = -(-len(data) // SEGMENT)
                lost = sum(self._random.random() < quality.loss for _ in range(segments))
                pipe.send(len(data) + lost * SEGMENT)
                self.carried[way] += len(data) + lost * SEGMENT
                now = time.monotonic()
                # a window a round trip: bytes that come later in it ride in its shadow
                wait = quality.round_trip / 2 if now - last > quality.round_trip else 0.0
                wait = (
                    max(wait, quality.round_trip * len(data) / window - (now - began)) + bool(lost) * quality.round_trip
                )
                time.sleep(max(0.0, wait))
                last = time.monotonic()
                if lost:
                    window = threshold = max(2.0 * SEGMENT, 0.7 * window)
                elif window < threshold:
                    window += len(data)
                else:
                    window += SEGMENT * len(data) / window
                other.sendall(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
