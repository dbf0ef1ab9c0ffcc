"""A journal in plain words: what was asked, what was sent (kind, bytes), what was spent."""

import datetime
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from primum.dp.account import epsilon_of_rdp
from primum.report.words import size

Entry = dict[str, Any]


@dataclass(frozen=True)
class Sent:
    """What left a hospital in one study: `bytes` by kind, rounds whose vectors left, Renyi divergence reserved, order."""

    bytes: dict[str, int]
    rounds: int
    rdp: float
    order: int

    def epsilon(self, delta: float) -> float:
        """What was reserved, as an epsilon of these rounds alone; 0 where nothing was."""
        return epsilon_of_rdp(self.rdp, self.order, delta) if self.rdp else 0.0


def in_words(entry: Entry) -> str:
    """One entry as a line: when, and what happened."""
    at = datetime.datetime.fromtimestamp(entry["at"]).strftime("%Y-%m-%d %H:%M:%S")
    return f"{at}  {sentence(entry)}"


def sentence(entry: Entry) -> str:
    """What happened; a kind that has no words of its own is shown as it is."""
    words = _WORDS.get(entry["kind"])
    if words is None:
        details = ", ".join(f"{key} {value}" for key, value in entry["details"].items())
        return f"{entry['kind']}: {details}" if details else str(entry["kind"])
    return words(entry["details"])


def of_study(entries: Iterable[Entry], wanted: str) -> list[Entry]:
    """The entries of the runs of one study: by its name, or the beginning of its digest or of a run's number."""
    every = list(entries)
    runs = {
        entry["details"]["run"] for entry in every if "run" in entry["details"] and _is_of(entry["details"], wanted)
    }
    return [entry for entry in every if entry["details"].get("run") in runs]


def sent(entries: Iterable[Entry]) -> Sent:
    """What left, added up."""
    amounts: dict[str, int] = {}
    rounds, rdp, order = 0, 0.0, 0
    for entry in entries:
        details = entry["details"]
        kind = _KINDS.get(entry["kind"])
        if kind is not None:
            amounts[kind] = amounts.get(kind, 0) + int(details.get("bytes", 0))
        if entry["kind"] == "vector":
            rounds += 1
            rdp, order = rdp + details["spent"]["rdp"], details["spent"]["order"]
    return Sent(amounts, rounds, rdp, order)


def _is_of(details: Entry, wanted: str) -> bool:
    if details.get("name") == wanted:
        return True
    return len(wanted) >= 6 and any(str(details.get(key, "")).startswith(wanted) for key in ("study", "run"))


def _decision(details: Entry) -> str:
    answer = {"yes": "agreed to", "no": "declined"}.get(details["answer"], details["answer"])
    if details["reason"] == "withdrawn":
        answer = "withdrew from"
    by = "the policy" if details["by"] == "policy" else details["by"]
    reason = f": {details['reason']}" if details["reason"] not in ("", "withdrawn") else ""
    until = f", until {details['until']}" if "until" in details else ""
    return f"{by} {answer} the study {details.get('name', '')} ({details['study'][:12]}){until}{reason}"


def _vector(details: Entry) -> str:
    what = {
        "train": "its masked update",
        "evaluate": "its masked table of the evaluation patients",
        "survey": "its masked sums of what its patients are like",
    }
    spent = details["spent"]
    cost = f"; charged {spent['rdp']:.3g} (Renyi divergence at order {spent['order']})" if spent["rdp"] else ""
    among = f"{len(details['participants'])} hospitals"
    return (
        f"run {details['run'][:8]}, round {details['round']}: sent {what.get(details['what'], details['what'])} among "
        f"{among}, {size(details['bytes'])}{cost}"
    )


_EXCHANGES: Final = {
    "keys": "public keys for the masks",
    "reveal": "its part of the random graph",
    "pair": "sealed key material for its neighbours",
    "deal": "sealed shares of its mask seeds",
    "confirm": "its signature under the set of hospitals",
}
_KINDS: Final = {
    "vector": "masked vectors",
    "shares": "shares that remove masks",
    "exchange": "keys and sealed shares",
}
_WORDS: Final[dict[str, Callable[[Entry], str]]] = {
    "decision": _decision,
    "vector": _vector,
    "exchange": lambda d: f"run {d['run'][:8]}: sent {_EXCHANGES.get(d['what'], d['what'])}, {size(d['bytes'])}",
    "shares": lambda d: (
        f"run {d['run'][:8]}, round {d['round']}: gave shares for the sum over hospitals "
        f"{', '.join(map(str, d['included']))}, {size(d['bytes'])}"
    ),
    "refused": lambda d: f"run {d['run'][:8]}: refused the coordinator's {d['order']}: {d['reason']}",
    "self-test": lambda d: (
        f"run {d['run'][:8]}: this hospital's engine passed its self-tests ({', '.join(d['passed']) or 'none needed'})"
    ),
    "end": lambda d: f"run {d['run'][:8]} ended: {d['outcome']}",
    "setting": lambda d: "started with the setting that every image is a patient of its own",
    "recovered": lambda d: f"a line that was never finished ({d['lost_bytes']} bytes) was cut off after a crash",
    "submitted": lambda d: f"the study {d['name']} was handed in by {d['asker'][:16]}...: run {d['run'][:8]}",
    "run": lambda d: f"run {d['run'][:8]} of the study {d['name']} began, or goes on",
    "consents": lambda d: (
        f"run {d['run'][:8]}: hospitals {d['agreed']} agreed, {d['refused']} declined, {d['silent']} did not answer"
    ),
    "round": lambda d: f"run {d['run'][:8]}, round {d['round']}: the sum over hospitals {d['included']}",
    "look": lambda d: f"run {d['run'][:8]}, round {d['round']}: the evaluation's sum over hospitals {d['included']}",
    "attempt failed": lambda d: f"run {d['run'][:8]}, round {d['round']} was thrown away: {d['reason']}",
    "stop": lambda d: f"run {d['run'][:8]}: somebody asked for a stop",
    "resume": lambda d: f"run {d['run'][:8]}: somebody let it go on",
    "answered": lambda d: f"answered an encrypted request of {d['count']} image(s), from number {d['first']} on",
    "dealt": lambda d: f"dealt randomness for {d['count']} image(s), from number {d['first']} on",
}
