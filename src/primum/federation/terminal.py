"""Asks at the terminal whether a hospital takes part. Light to import: it knows no model and no network."""

import getpass
import os
import sys
import termios
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from primum.federation.approval import NO, WAITING, YES

if TYPE_CHECKING:
    from primum.study import Study
    from primum.tasks.plan import Plan


class TerminalDesk:
    """Asks at the terminal, in a thread of its own: the node goes on answering while a person thinks."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._answers: dict[bytes, str | None] = {}
        self._asked = b""  # the run whose question stands on the screen
        self._reading = False
        self._lock = threading.Lock()

    @property
    def attended(self) -> bool:
        """Whether there is a terminal."""
        return sys.stdin.isatty()

    def ask(self, run: bytes, study: "Study", plan: "Plan", asker: bytes) -> tuple[str, str]:
        """Without a terminal the study waits for `primum consent`; one that hangs up after the question means no."""
        if run not in self._answers:
            if not self.attended:
                return WAITING, "nobody is at the terminal"
            self._answers[run] = None
            self._put(run)
        answer = self._answers[run]
        return (WAITING, "a person is thinking") if answer is None else (answer, getpass.getuser())

    def _put(self, run: bytes) -> None:
        with self._lock:
            termios.tcflush(sys.stdin, termios.TCIFLUSH)  # what was typed before the question does not answer it
            self._asked, start, self._reading = run, not self._reading, True
            self._show("Take part in this study? Type yes or no:")
        if start:
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        # os.read: a thread that waits in sys.stdin holds its lock, and the interpreter could not end
        while True:
            try:
                typed = os.read(sys.stdin.fileno(), 1024)
            except (OSError, ValueError):
                typed = b""
            word = typed.decode(errors="replace").strip().lower()
            if not typed or word in ("yes", "no"):  # nothing typed: the terminal is gone
                with self._lock:
                    self._answers[self._asked] = YES if word == "yes" else NO
                    self._reading = False
                return
            self._show("Type yes or no:")
