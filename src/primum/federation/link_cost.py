"""How long the bytes of a study take on a hospital's link, before anybody is asked."""

import re
from typing import Final

from primum.errors import InputError
from primum.federation.exchange import LONGEST_TRANSFER
from primum.federation.explain import for_three, vector_bytes
from primum.study import Study
from primum.tasks.plan import Plan, resolve

REACHED: Final = 0.8
"""Share of a bandwidth that rounds reach at 3 % loss and a break a minute (docs/benchmarks.md, Bad links)."""
_UNITS: Final = {"bit/s": 1.0, "kbit/s": 1e3, "mbit/s": 1e6, "gbit/s": 1e9}
_RATE: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmg]?bit/s)\s*", re.IGNORECASE)


def parse_rate(text: str) -> float:
    """Bytes a second of `5Mbit/s`, `512 kbit/s` or `1Gbit/s`; InputError for anything else, or for zero."""
    found = _RATE.fullmatch(text)
    rate = float(found[1]) * _UNITS[found[2].lower()] / 8 if found else 0.0
    if rate <= 0:
        raise InputError(f"{text[:40]!r} is not a link's rate.", "As --link 5Mbit/s, or 512kbit/s.")
    return rate


def cost_on_link(study: Study, rate: float) -> str:
    """Seconds of a round and hours of the study that its bytes need at `rate` bytes a second each way, in words."""
    plan = Plan(resolve(for_three(study)))
    down, up = 4 * plan.coordinates, vector_bytes(plan)
    seconds, rounds = (down + up) / rate / REACHED, max(1, study.training.rounds)
    lines = [
        f"On a link of {rate * 8 / 1e6:g} Mbit/s at a hospital: {_size(down)} down and {_size(up)} up take "
        f"{_duration(seconds)} a round, {_duration(seconds * rounds)} in all ({REACHED:.0%} of the link used).",
        f"The coordinator's own link carries {plan.hospitals} times as much.",
    ]
    if seconds > LONGEST_TRANSFER:
        lines.append(
            f"Too long: a round's bytes may take {_duration(LONGEST_TRANSFER)}. See docs/how-to/slow-links.md."
        )
    return "\n".join(lines)


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} KB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
