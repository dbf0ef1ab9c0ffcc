"""One task with many pieces, on PyTorch's own threads.

OpenMP's threads do not sleep between PyTorch's functions: for some milliseconds each waits for the next one in a loop, on
the core that a thread of ours would need. Asked to work they do. Where PyTorch has no such library, ours do.
"""

import ctypes
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch

from primum.kernels.threads import Piece, do_all, share_out

_Task: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def share(task: Callable[[Piece], object], pieces: Sequence[Piece]) -> None:
    """Do `task` with each piece, on as many threads as PyTorch uses; raises what one raised, after all have ended."""
    threads = min(torch.get_num_threads(), len(pieces))
    library = _openmp() if threads > 1 else None
    if library is None:
        share_out(task, pieces, threads)
        return
    rest, failures = deque(pieces), list[BaseException]()

    def work(_: object) -> None:
        try:
            do_all(task, rest)
        except BaseException as failure:  # nothing can be raised through OpenMP
            failures.append(failure)

    library.GOMP_parallel(_Task(work), None, threads, 0)
    for failure in failures:
        raise failure


@cache
def _openmp() -> Any:
    """What PyTorch's own calls of OpenMP go to; None where it does not speak GNU's dialect."""
    for path in (Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"):
        try:
            library = ctypes.CDLL(str(path))  # loaded already: names are looked up in it and in what it needs
            return library if library.GOMP_parallel else None
        except (AttributeError, OSError):
            return None
    return None
