"""What a server has done, for whoever runs it: `metrics.prom` in the state folder, in Prometheus' text format.

Counts and times only; nothing about an image, a diagnosis or who asked. A file and not a page, because the port of a
server is open to everybody. `primum serve --metrics FILE` puts it where node_exporter's textfile collector reads.
"""

import contextlib
import json
from pathlib import Path
from typing import Final

from primum.disk import Grown, write
from primum.errors import MachineError, Refused, Unavailable
from primum.watch import single

SECONDS_BETWEEN: Final = 1.0
_HELP: Final = {
    "requests_total": ("counter", "requests by how they ended"),
    "images_total": ("counter", "images that were answered"),
    "run_seconds_total": ("counter", "seconds from a request's arrival to its answer, added up"),
    "waiting": ("gauge", "requests that wait or run"),
}


class DealerFigures:
    """What a dealer has dealt, as its journal in `state` says: the same format, made when it is asked for."""

    def __init__(self, state: Path) -> None:
        self._journal, self._images = Grown(state / "journal.jsonl"), 0

    def __call__(self) -> str:
        """As text."""
        entries = (json.loads(line)["entry"] for line in self._journal.lines())
        self._images += sum(int(entry["details"]["count"]) for entry in entries if entry["kind"] == "dealt")
        words = "images for which randomness was dealt"
        return single("dealt_total", words, self._images, "counter").text()


class Metrics:
    """Counts since the start of this process."""

    def __init__(self, path: Path, private: bool = True) -> None:
        self._path, self._private = path, private
        self._ended = dict.fromkeys(("answered", "refused", "unavailable", "failed"), 0)
        self._images, self._seconds, self._written = 0, 0.0, ""

    def answered(self, images: int, seconds: float) -> None:
        """A request was answered."""
        self._ended["answered"] += 1
        self._images += images
        self._seconds += seconds

    def failed(self, error: BaseException) -> None:
        """A request ended with an error."""
        kind = (
            "refused" if isinstance(error, Refused) else "unavailable" if isinstance(error, Unavailable) else "failed"
        )
        self._ended[kind] += 1

    def save(self, waiting: int) -> None:
        """Write the file if something changed; a full disk stops nobody."""
        text = self.text(waiting)
        if text != self._written:
            self._written = text
            with contextlib.suppress(MachineError):
                write(self._path, text.encode(), self._private)

    def text(self, waiting: int) -> str:
        """The file's content."""
        values: dict[str, list[tuple[str, float]]] = {
            "requests_total": [(f'{{ended="{kind}"}}', count) for kind, count in self._ended.items()],
            "images_total": [("", self._images)],
            "run_seconds_total": [("", round(self._seconds, 3))],
            "waiting": [("", waiting)],
        }
        lines = []
        for name, rows in values.items():
            kind, words = _HELP[name]
            lines += [f"# HELP primum_{name} {words}", f"# TYPE primum_{name} {kind}"]
            lines += [f"primum_{name}{label} {value}" for label, value in rows]
        return "\n".join(lines) + "\n"
