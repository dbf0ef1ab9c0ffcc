"""Which of several ways is quickest here: measured once for each shape, and kept as long as the process lives."""

import time
from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

_REPEATS: Final = 3
_ENOUGH: Final = 0.1  # seconds after which two times must do
_FAR: Final = 4.0  # times as long as another way: more than a cold start makes of it

Key = tuple[object, ...]
known: Final[dict[Key, str]] = {}
"""The name of the quickest way by what it depends on."""


def quickest(key: Key, ways: Mapping[str, Callable[[], object]], inputs: Tensor) -> str:
    """The name among `ways`; `inputs` says on which device they run."""
    if key not in known:
        known[key] = min(ways, key=lambda name: best(ways[name], inputs))
    return known[key]


def best(call: Callable[[], object], inputs: Tensor, least: float = float("inf")) -> float:
    """Seconds, the best of a few times; of one where something else needs far less, `least`."""
    found, spent = float("inf"), 0.0
    for repeat in range(_REPEATS):
        began = _now(inputs)
        call()
        took = _now(inputs) - began
        found, spent = min(found, took), spent + took
        if found > _FAR * least and not inputs.is_cuda:  # where the first time loads what the next has
            break
        if repeat and spent > _ENOUGH:
            break
    return found


def rows_about(tensor: Tensor) -> tuple[int, ...]:
    """The shape with its rows rounded up to a power of two: samples differ in size from step to step."""
    return (1 << (len(tensor) - 1).bit_length(), *tensor.shape[1:])


def place(tensor: Tensor) -> Key:
    """Type, device and threads."""
    return tensor.dtype, tensor.device, torch.get_num_threads()


def _now(tensor: Tensor) -> float:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return time.perf_counter()
