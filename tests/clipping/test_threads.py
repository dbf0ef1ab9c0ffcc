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


def test_they_are_the_threads_that_pytorch_has() -> None:
    """In a process that counts its threads: none is started."""
    program = (
        "import os, threading, torch\n"
        "from primum.clipping import threads\n"
        "torch.set_num_threads(2)\n"
        "torch.randn(1 << 22).exp()\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "both = threading.Barrier(2, timeout=60)\n"
        "threads.share(lambda _: both.wait(), range(2))\n"
        "print(len(os.listdir('/proc/self/task')) - before)\n"
    )
    if threads._openmp() is None:
        pytest.skip("PyTorch has another OpenMP library here")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "0\n"


def test_a_library_without_openmp_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda path: object())
    assert threads._openmp.__wrapped__() is None
