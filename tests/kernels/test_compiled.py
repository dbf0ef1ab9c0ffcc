"""numba waits for the first call; a cache that cannot be written does no harm."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from primum.kernels.compiled import compiled

PROGRAM = """
from primum.kernels.compiled import compiled

@compiled
def doubled(x: int) -> int:
    return 2 * x

@compiled
def quadrupled(x: int) -> int:
    return doubled(doubled(x))

if __name__ == "__main__":
    print(quadrupled(21), doubled(1.5))
"""


@compiled
def halved(x: float) -> float:
    """Half of x."""
    return x / 2


@compiled
def added(total: np.ndarray, value: int) -> None:
    for i in range(len(total)):
        total[i] += value


def run(program: Path | str, **environment: str) -> subprocess.CompletedProcess[str]:
    arguments = [str(program)] if isinstance(program, Path) else ["-c", program]
    variables = os.environ | environment
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments], env=variables, capture_output=True, text=True, timeout=120
    )


def test_importing_the_kernels_does_not_import_numba() -> None:
    program = (
        "import sys\n"
        "from primum.kernels import galois, packing\n"
        "assert 'numba' not in sys.modules\n"
        "assert packing.pack.__doc__ and galois._times.__name__ == '_times'\n"
    )
    done = run(program)
    assert done.returncode == 0, done.stderr


def test_a_kernel_computes_and_keeps_its_name() -> None:
    assert halved(7.0) == 3.5
    assert halved.__name__ == "halved"  # type: ignore[attr-defined]
    assert halved.__doc__ == "Half of x."


def test_kernels_call_kernels_and_are_kept_for_the_next_process(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    cache = tmp_path / "cache"
    for _ in range(2):
        done = run(program, NUMBA_CACHE_DIR=str(cache))
        assert done.stdout.split() == ["84", "3.0"], done.stderr
    assert list(cache.rglob("*.nbi"))


def test_without_a_place_for_a_cache_kernels_are_compiled_all_the_same(tmp_path: Path) -> None:
    """As in a read-only installation: what is asked for is a file, so no folder can be made there by any user."""
    blocked = tmp_path / "a file"
    blocked.touch()
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = run(program, NUMBA_CACHE_DIR=str(blocked), NUMBA_CACHE_LOCATOR_CLASSES="UserProvidedCacheLocator")
    assert done.stdout.split() == ["84", "3.0"], done.stderr


def test_a_cache_that_goes_away_does_no_harm(tmp_path: Path) -> None:
    """A folder was found, but nothing can be written there any more: as on a full disk."""
    cache = tmp_path / "cache"
    program = tmp_path / "program.py"
    lost = f"import shutil; doubled._make(); shutil.rmtree({str(cache)!r}); open({str(cache)!r}, 'x').close()"
    program.write_text(PROGRAM.replace("    print(", f"    {lost}\n    print("))
    done = run(program, NUMBA_CACHE_DIR=str(cache))
    assert done.stdout.split() == ["84", "3.0"], done.stderr


def test_several_threads_may_call_first() -> None:
    totals = [np.zeros(1000, np.int64) for _ in range(4)]
    threads = [threading.Thread(target=added, args=(total, 5)) for total in totals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((total == 5).all() for total in totals)


def test_an_error_of_a_kernel_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        compiled(lambda x: 1 // x)(0)
