"""Sharing out: every piece once, whatever is raised, from however many callers."""

import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from primum.kernels.threads import share_out


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("pieces", [0, 1, 2, 100])
def test_every_piece_is_done_once(threads: int, pieces: int) -> None:
    done: Counter[int] = Counter()
    lock = threading.Lock()

    def task(piece: int) -> None:
        with lock:
            done[piece] += 1

    share_out(task, range(pieces), threads)
    assert done == Counter(range(pieces))


def test_several_threads_take_part() -> None:
    both = threading.Barrier(2, timeout=60)
    share_out(lambda _: both.wait(), range(2), 2)


@pytest.mark.parametrize("threads", [1, 2])
def test_what_a_piece_raises_is_raised(threads: int) -> None:
    with pytest.raises(ZeroDivisionError):
        share_out(lambda piece: 1 // (piece - 7), range(20), threads)


def test_pieces_may_share_out_themselves_and_callers_do_not_wait_for_each_other() -> None:
    done: list[tuple[int, int]] = []

    def outer(piece: int) -> None:
        share_out(lambda part: done.append((piece, part)), range(4), 2)

    with ThreadPoolExecutor(4) as callers:
        for _ in callers.map(lambda _: share_out(outer, range(3), 2), range(4)):
            pass
    assert Counter(done) == Counter({(piece, part): 4 for piece in range(3) for part in range(4)})


def test_a_process_without_the_threads_of_its_parent_does_all_itself() -> None:
    share_out(lambda _: None, range(4), 2)  # the threads are there
    child = os.fork()
    if child == 0:
        done: list[int] = []
        share_out(done.append, range(10), 2)
        os._exit(0 if sorted(done) == list(range(10)) else 1)
    assert os.waitpid(child, 0)[1] == 0
