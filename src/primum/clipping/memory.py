"""How many rows fit into memory at once, found by looking at what a few rows leave behind in a forward pass."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

VMAPPED: Final = 1 << 25
"""Numbers that gradients by vmap may take at once."""
MOST_ROWS: Final = 512
_SHARE: Final = 0.5  # of what is free
_BEYOND: Final = 3.0  # slopes and what layers work with, beside what the forward pass leaves


def rows_that_fit(forward: Callable[[], Any], rows: int, device: torch.device) -> int:
    """The most rows that half of the free memory holds, from a forward pass over `rows` of them; at most 512."""
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        held[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    each = max(1.0, _BEYOND * sum(held.values()) / rows)
    return int(max(1, min(MOST_ROWS, _SHARE * free_bytes(device) / each)))


def free_bytes(device: torch.device) -> int:
    """What the device, or this computer, has left."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def is_exhausted(error: BaseException) -> bool:
    """Whether an error of torch says that memory is used up."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text or "out of memory" in text
