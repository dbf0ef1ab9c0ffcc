"""Mutated messages at everybody who receives some, and mutated files at every doorway. The machinery is in tests/fuzz."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from tests.fuzz.coordinators import fuzz_rounds, fuzz_sums
from tests.fuzz.counts import Counts
from tests.fuzz.files import fuzz_files
from tests.fuzz.fronts import fuzz_front
from tests.fuzz.nodes import fuzz_nodes
from tests.fuzz.roles import fuzz_diagnosis

from primum.federation import rounds

PARTS: dict[str, tuple[float, Callable[[Path, int], Counts]]] = {
    "hospitals": (0.40, fuzz_nodes),
    "coordinator, sums": (0.18, lambda folder, count: fuzz_sums(count)),
    "coordinator, runs": (0.04, fuzz_rounds),
    "front": (0.18, fuzz_front),
    "diagnosis": (0.20, fuzz_diagnosis),
}
"""The share of each part in all messages."""


def fuzz(messages: int, files: int, say: Callable[[str], None]) -> dict[str, float]:
    """At least so many of each."""
    torch.set_num_threads(1)
    rounds._RETRY_PAUSE = 0.0  # type: ignore[misc]  # between attempts; nobody is away here
    total = Counts()
    for name, (share, part) in PARTS.items():
        total.add(_one(name, part, round(share * messages), say))
    some = _one("files", fuzz_files, files, say)
    return {
        "fuzz_messages": total.sent,
        "past_frame": round(total.past / total.sent, 4),
        "fuzz_files": some.sent,
        "crashes": len(total.crashes) + len(some.crashes),
        "accepted": len(total.accepted) + len(some.accepted),
    }


def _one(name: str, part: Callable[[Path, int], Counts], count: int, say: Callable[[str], None]) -> Counts:
    with tempfile.TemporaryDirectory() as folder:
        counts = part(Path(folder), count)
    say(
        f"{name}: {counts.sent:,} mutants, {counts.past:,} past the frame check, {len(counts.refusals)} kinds of refusal, "
        f"{len(counts.crashes)} crashes, {len(counts.accepted)} accepted"
    )
    for words in (*counts.crashes, *counts.accepted):
        say(f"  {words}")
    return counts
