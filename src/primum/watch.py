"""A port for whoever watches a role: `GET /healthz` and `GET /metrics` (Prometheus' text format). Never a public one.

Figures are counts, times and states; nothing about an image, a label or a diagnosis.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, Literal

from primum.errors import InputError, MachineError

_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Figure:
    """One metric: `samples` are labels with a value; names get the prefix `primum_`."""

    name: str
    words: str
    samples: Iterable[tuple[dict[str, str], float]]
    kind: Literal["gauge", "counter"] = "gauge"

    def text(self) -> str:
        """In Prometheus' format, version 0.0.4."""
        lines = [f"# HELP primum_{self.name} {self.words}", f"# TYPE primum_{self.name} {self.kind}"]
        lines += [f"primum_{self.name}{_labels(labels)} {value:.17g}" for labels, value in self.samples]
        return "\n".join(lines) + "\n"


def as_text(figures: Iterable[Figure]) -> str:
    """All of them, as Prometheus reads them."""
    return "".join(figure.text() for figure in figures)


def single(name: str, words: str, value: float, kind: Literal["gauge", "counter"] = "gauge") -> Figure:
    """A metric with one value and no label."""
    return Figure(name, words, [({}, value)], kind)


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


@dataclass(frozen=True)
class Watched:
    """A role as whoever watches it sees it: figures as text, and `trouble`: None where all is well, else the reason in words."""

    metrics: Callable[[], str]
    trouble: Callable[[], str | None] = lambda: None


@contextmanager
def watching(address: str | None, watched: Watched) -> Iterator[None]:
    """Answer at HOST:PORT while the block runs; at 127.0.0.1 where only a port is given. None: nowhere.

    InputError for what is no address, MachineError for a port that cannot be used.
    """
    if address is None:
        yield
        return
    server = _listen(address, watched)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def is_address(text: str) -> bool:
    """Whether it has the form HOST:PORT or :PORT, and is not the name of a file."""
    host, colon, port = text.rpartition(":")
    return bool(colon) and port.isdecimal() and 1 <= int(port) <= 65535 and ":" not in host and "/" not in host


def _listen(address: str, watched: Watched) -> ThreadingHTTPServer:
    host, _, port = address.rpartition(":")
    if not is_address(address):
        raise InputError(f"--metrics {address!r} is not HOST:PORT.", "As 127.0.0.1:9464.")
    try:
        return _Server((host or "127.0.0.1", int(port)), _answering(watched))
    except OSError as error:
        raise MachineError(
            f"Port {port} of {host or '127.0.0.1'} cannot be used: {error.strerror}.", "Choose another with --metrics."
        ) from None


class _Server(ThreadingHTTPServer):
    daemon_threads = True


def _page(path: str, watched: Watched) -> tuple[int, str]:
    if path == "/healthz":
        reason = watched.trouble()
        return (200, "ok\n") if reason is None else (503, f"{reason}\n")
    if path == "/metrics":
        return 200, watched.metrics()
    return 404, "Only /healthz and /metrics are here.\n"


def _answering(watched: Watched) -> type[BaseHTTPRequestHandler]:
    class Answering(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            """The two pages; 404 elsewhere."""
            try:
                self._answer(*_page(self.path, watched))
            except Exception as error:  # whoever watches must not end the role, nor fill its screen with traces
                self._answer(500, f"{type(error).__name__}\n")

        def _answer(self, status: int, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", _TEXT)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *values: object) -> None:
            """Say nothing: a scrape every few seconds would fill the log."""

    return Answering
