"""One task with many pieces, on as many threads as PyTorch uses, while PyTorch's own ones are out of the way.

OpenMP's threads do not sleep between PyTorch's functions: for some milliseconds each waits for the next one in a loop, on
the core that a thread of ours needs. So they are sent away; the next function of PyTorch that wants them makes new ones,
which takes it some hundredths of a millisecond.
"""

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch

from primum.kernels.threads import Piece, share_out

_SOFTLY: Final = 1  # omp_pause_soft: what was set stays set


def share(task: Callable[[Piece], object], pieces: Sequence[Piece]) -> None:
    """Do `task` with each piece, on as many threads as PyTorch uses; raises what one raised, after all have ended."""
    threads = min(torch.get_num_threads(), len(pieces))
    library = _openmp() if threads > 1 else None
    if library is not None:
        library.omp_pause_resource_all(_SOFTLY)
    share_out(task, pieces, threads)


@cache
def _openmp() -> Any:
    """What PyTorch's own calls of OpenMP go to; None where it cannot send its threads away."""
    for path in (Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"):
        try:
            library = ctypes.CDLL(str(path))  # loaded already: names are looked up in it and in what it needs
            return library if library.omp_pause_resource_all else None
        except (AttributeError, OSError):
            return None
    return None
