"""A run's folder at the coordinator: written whole or not at all, so that a kill at any point leaves the last finished round.

study.toml        the signed text        request.bin   the signed study
status.json       queued, running, finished or failed, and why
started.json      the highest round and session number that was ever begun
checkpoint.safetensors   optimiser after the last finished round
metrics.jsonl ledger.jsonl summary.json model.safetensors card.json   what the scientist gets
"""

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from safetensors.numpy import load, save

from primum import wire
from primum.disk import write
from primum.study import SignedStudy

QUEUED: Final = "queued"
RUNNING: Final = "running"
FINISHED: Final = "finished"
FAILED: Final = "failed"
RESULTS: Final = (
    "study.toml",
    "status.json",
    "metrics.jsonl",
    "attempts.jsonl",
    "ledger.jsonl",
    "summary.json",
    "model.safetensors",
    "card.json",
)


@dataclass(frozen=True)
class Run:
    """One run's folder."""

    folder: Path

    @property
    def name(self) -> str:
        """The run's id: time and a random part."""
        return self.folder.name

    @property
    def token(self) -> bytes:
        """The 16 bytes by which the protocols name this run."""
        return bytes.fromhex(self.name.rsplit("-", 1)[-1])

    @classmethod
    def create(cls, runs: Path, signed: SignedStudy, study_name: str) -> "Run":
        """A new folder with the signed study, queued."""
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{study_name}-{secrets.token_hex(16)}"
        folder = runs / name
        folder.mkdir(parents=True, mode=0o700)
        run = cls(folder)
        write(folder / "study.toml", signed.text.encode())
        write(folder / "request.bin", wire.encode(signed))
        run.set_status(QUEUED)
        return run

    def lock(self) -> IO[bytes]:
        """Hold the run for this process until the file is closed or the process ends; waits for another holder."""
        file = (self.folder / "lock").open("wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        return file

    def signed_study(self) -> SignedStudy:
        """What the scientist signed."""
        return wire.decode((self.folder / "request.bin").read_bytes(), SignedStudy, "this run's folder")

    def status(self) -> dict[str, Any]:
        """State, message, flower (its run number), or an empty dictionary."""
        return self._json("status.json")

    def set_status(self, state: str, message: str = "", **more: Any) -> None:
        """Say where the run stands."""
        kept = {k: v for k, v in self.status().items() if k == "flower"}
        write_json(self.folder / "status.json", {**kept, "state": state, "message": message, "at": time.time(), **more})

    def started(self) -> tuple[int, int]:
        """(highest round, highest session) ever begun."""
        data = self._json("started.json")
        return int(data.get("round", 0)), int(data.get("session", 0))

    def start(self, round_number: int, session: int) -> None:
        """Write down that they are begun, before a node hears of them: a round number is used once."""
        write_json(self.folder / "started.json", {"round": round_number, "session": session})

    def checkpoint(self, arrays: dict[str, np.ndarray[Any, np.dtype[np.float64]]]) -> None:
        """Keep the optimiser."""
        write(self.folder / "checkpoint.safetensors", save(arrays))

    def last_checkpoint(self) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]] | None:
        """What `checkpoint` kept."""
        path = self.folder / "checkpoint.safetensors"
        return load(path.read_bytes()) if path.exists() else None

    def append(self, file: str, line: dict[str, Any]) -> None:
        """One more line of metrics or ledger, on disk."""
        with (self.folder / file).open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
            out.flush()
            os.fsync(out.fileno())

    def lines(self, file: str) -> list[dict[str, Any]]:
        """All lines; a half-written last one (power loss) is dropped."""
        path = self.folder / file
        found: list[dict[str, Any]] = []
        for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                found.append(json.loads(text))
            except ValueError:
                break
        return found

    def results(self) -> Iterable[tuple[str, bytes]]:
        """The files that the scientist gets."""
        for name in RESULTS:
            path = self.folder / name
            if path.exists():
                yield name, path.read_bytes()

    def _json(self, file: str) -> dict[str, Any]:
        path = self.folder / file
        if not path.exists():
            return {}
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return data


def write_json(path: Path, data: dict[str, Any]) -> None:
    """`write` of a JSON object."""
    write(path, (json.dumps(data, indent=1) + "\n").encode())
