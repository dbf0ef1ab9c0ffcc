"""Freed memory is kept within, and given back at the end."""

import subprocess
import sys

import pytest

from primum import heap

PROGRAM = """
import resource, sys
import numpy as np
from primum import heap

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20

def fill(times):
    before = faults()
    for _ in range(times):
        np.ones(12 << 20)  # 96 MB, freed at once
    return faults() - before

fill(2)
usual, start = fill(8), resident()
with heap.kept():
    fill(1)
    kept, within = fill(8), resident()
print(usual, kept, within - start, resident() - start, fill(8))
"""


@pytest.mark.skipif(heap._glibc() is None, reason="no glibc")
def test_what_is_freed_is_kept_and_given_back() -> None:
    """Counted by the system: pages at their first use, and what the process holds."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    usual, kept, within, after, again = map(int, done.stdout.split())
    assert kept < usual / 20  # with huge pages `usual` is some hundreds, without 196,608
    assert within > 90 > 10 > after
    assert again > usual / 2


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_glibc", lambda: None)
    with heap.kept():
        pass


def test_an_error_within_is_handed_on() -> None:
    with pytest.raises(KeyError), heap.kept():
        raise KeyError
