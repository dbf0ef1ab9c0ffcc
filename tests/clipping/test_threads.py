"""Work of ours on PyTorch's threads: every piece once, and what a piece raises."""

import ctypes
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from primum.clipping import threads


@pytest.fixture(params=[1, 2, 3])
def count(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(params=[True, False])
def openmp(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    return bool(request.param)


def test_every_piece_is_done_once(count: int, openmp: bool) -> None:
    for pieces in (0, 1, 2, 50):
        done: Counter[int] = Counter()
        lock = threading.Lock()

        def task(piece: int, done: Counter[int] = done, lock: threading.Lock = lock) -> None:
            with lock:
                done[piece] += 1

        threads.share(task, range(pieces))
        assert done == Counter(range(pieces))


def test_what_a_piece_raises_is_raised(count: int, openmp: bool) -> None:
    with pytest.raises(ZeroDivisionError):
        threads.share(lambda piece: 1 // (piece - 7), range(20))


INTERRUPTED = """
import signal, threading, time, torch
from primum.clipping import threads

torch.set_num_threads(2)
values = torch.zeros(1 << 20)
for time_ in range(30):
    threading.Timer(0.01 + 0.0007 * time_, lambda: signal.raise_signal(signal.SIGINT)).start()
    end = time.monotonic() + 60
    try:
        while time.monotonic() < end:
            values.exp()
            threads.share(lambda _: time.sleep(0.0003), range(4))
        raise SystemExit("an interruption was lost")
    except KeyboardInterrupt:
        pass
done = []
threads.share(done.append, range(10))
assert sorted(done) == list(range(10))
"""


def test_no_interruption_is_lost() -> None:
    """Wherever it comes, and what follows works."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_a_library_without_openmp_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda path: object())
    assert threads._openmp.__wrapped__() is None
