"""A run's folder at the coordinator: written whole or not at all, so that a kill at any point leaves the last finished round.

study.toml        the signed text        request.bin   the signed study
status.json       queued, running, finished, stopped or failed, and why
waiting.json      which stage the run is in, since when, until when, and which hospitals have not answered yet
stop              is there when somebody asked for the run to stop
faults.jsonl      what hospitals could not do: code, message, hint; never a value from their data
started.json      the highest round and session number that was ever begun
weights.bin       the finished model of a study that only looks at one (float32)
checkpoint.safetensors   optimiser after the last finished round, and that round's lines of metrics and ledger
metrics.jsonl ledger.jsonl summary.json model.safetensors card.json   what the scientist gets
"""

import fcntl
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, TypedDict

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from primum import wire
from primum.disk import append, read_json, write
from primum.errors import MachineError
from primum.study import SignedStudy

QUEUED: Final = "queued"
RUNNING: Final = "running"
FINISHED: Final = "finished"
FAILED: Final = "failed"
STOPPED: Final = "stopped"
STARTING: Final = "starting"
_STATUS: Final = TypedDict("_STATUS", {"state": str, "message": str, "at": float, "flower": int}, total=False)
_WAITING: Final = TypedDict("_WAITING", {"stage": str, "since": float, "until": float, "for": list[int]}, total=False)
_STARTED: Final = TypedDict("_STARTED", {"round": int, "session": int}, total=False)
_CHECKPOINT: Final = "checkpoint.safetensors"
Arrays = dict[str, np.ndarray[Any, np.dtype[np.float64]]]
OVER: Final = (FINISHED, FAILED, STOPPED)
RESULTS: Final = (
    "study.toml",
    "request.bin",
    "status.json",
    "metrics.jsonl",
    "attempts.jsonl",
    "faults.jsonl",
    "evidence.json",
    "ledger.jsonl",
    "summary.json",
    "looks.jsonl",
    "survey.jsonl",
    "model.safetensors",
    "card.json",
    "best/model.safetensors",
    "best/card.json",
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
    def create(cls, runs: Path, signed: SignedStudy, study_name: str, weights: bytes = b"") -> "Run":
        """A new folder with the signed study, queued; `weights` of a finished model that is only looked at."""
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{study_name}-{secrets.token_hex(16)}"
        folder = runs / name
        folder.mkdir(parents=True, mode=0o700)
        run = cls(folder)
        write(folder / "study.toml", signed.text.encode())
        write(folder / "request.bin", wire.encode(signed))
        if weights:
            write(folder / "weights.bin", weights)
        run.set_status(QUEUED)
        return run

    def lock(self) -> IO[bytes]:
        """Hold the run for this process until the file is closed or the process ends; waits for another holder."""
        file = (self.folder / "lock").open("wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        return file

    @property
    def locked(self) -> bool:
        """Whether a server program holds the run; one that was killed does not."""
        with (self.folder / "lock").open("wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    def signed_study(self) -> SignedStudy:
        """What the scientist signed."""
        return wire.decode((self.folder / "request.bin").read_bytes(), SignedStudy, "this run's folder")

    def finished_weights(self, digest: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The finished model [dimension] that the study names by its SHA-256; MachineError where it is not that one."""
        path = self.folder / "weights.bin"
        data = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(data).hexdigest() != digest:
            raise MachineError(f"{path} is not the model that the study names.", "Hand the study in again.")
        return np.frombuffer(data, "<f4").astype(np.float32)

    def status(self) -> dict[str, Any]:
        """State, message, flower (its run number), or an empty dictionary."""
        return read_json(self.folder / "status.json", _STATUS)

    def set_status(self, state: str, message: str = "", **more: Any) -> None:
        """Say where the run stands."""
        kept = {k: v for k, v in self.status().items() if k == "flower"}
        write_json(self.folder / "status.json", {**kept, "state": state, "message": message, "at": time.time(), **more})

    def ask_to_stop(self) -> None:
        """Let the server program end at its next look: the last finished round is kept."""
        write(self.folder / "stop", b"")

    def forget_stop(self) -> None:
        """The run may go on."""
        (self.folder / "stop").unlink(missing_ok=True)

    @property
    def stop_asked(self) -> bool:
        """Whether somebody asked for a stop."""
        return (self.folder / "stop").exists()

    @property
    def stop_asked_at(self) -> float:
        """When (seconds since 1970)."""
        return (self.folder / "stop").stat().st_mtime

    def wait(self, stage: str, places: Iterable[int], seconds: float) -> None:
        """Say who is waited for from now on, and how long at most."""
        now = time.time()
        self._note_waiting({"stage": stage, "since": now, "until": now + seconds, "for": sorted(places)})

    def heard(self, place: int) -> None:
        """One hospital answered."""
        waiting = self.waiting()
        left = [other for other in waiting.get("for", []) if other != place]
        self._note_waiting({**waiting, "for": left})

    def waiting(self) -> dict[str, Any]:
        """stage, since, until, for (places); or an empty dictionary."""
        try:
            return read_json(self.folder / "waiting.json", _WAITING)
        except MachineError:  # it is not synced: a power loss may leave anything
            return {}

    def _note_waiting(self, data: dict[str, Any]) -> None:
        # not synced: it is for people who look now, and is written several times a round
        part = self.folder / "waiting.part"
        part.write_text(json.dumps(data))
        part.replace(self.folder / "waiting.json")

    def started(self) -> tuple[int, int]:
        """(highest round, highest session) ever begun."""
        data = read_json(self.folder / "started.json", _STARTED)
        return int(data.get("round", 0)), int(data.get("session", 0))

    def start(self, round_number: int, session: int) -> None:
        """Write down that they are begun, before a node hears of them: a round number is used once."""
        write_json(self.folder / "started.json", {"round": round_number, "session": session})

    def checkpoint(self, arrays: Arrays, lines: Mapping[str, dict[str, Any]] | None = None) -> None:
        """Keep the optimiser, and append to each file the line that its round adds: with one write, so that a kill
        leaves a round that is finished, or none."""
        kept = {file: json.dumps(line) for file, line in (lines or {}).items()}
        write(self.folder / _CHECKPOINT, save(arrays, kept))
        self._append_missing(kept)

    def last_checkpoint(self) -> Arrays | None:
        """What `checkpoint` kept; lines that a kill kept from their files are appended. MachineError where it is damaged."""
        path = self.folder / _CHECKPOINT
        if not path.exists():
            return None
        try:
            arrays = load(path.read_bytes())
            with safe_open(path, "numpy") as file:
                self._append_missing(file.metadata() or {})
        except (SafetensorError, ValueError) as error:
            raise MachineError(
                f"{path} is damaged.", "Restore the run from a backup, or submit the study again."
            ) from error
        return arrays

    def _append_missing(self, lines: Mapping[str, str]) -> None:
        for file, text in lines.items():
            line = json.loads(text)
            if line not in self.lines(file):
                self.append(file, line)

    def append(self, file: str, line: dict[str, Any]) -> None:
        """One more line of metrics or ledger, whole or not at all; on disk when this returns."""
        path = self.folder / file
        _cut_torn_line(path)
        append(path, (json.dumps(line) + "\n").encode())

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


def _cut_torn_line(path: Path) -> None:
    """What a power loss left of a line would make one with the next."""
    data = path.read_bytes() if path.exists() else b""
    if data and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """`write` of a JSON object."""
    write(path, (json.dumps(data, indent=1) + "\n").encode())
