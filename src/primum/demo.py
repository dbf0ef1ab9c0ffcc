"""The whole way on one machine, as real processes on loopback: train privately, diagnose encrypted, report.

Starts a coordinator, three hospitals, a dealer and two diagnosis servers, each with a state folder of its own (0700).
Exit code 1 if an encrypted answer differs from the plaintext model's.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import torch

from primum.diagnosis.data_owner import diagnose_files
from primum.diagnosis.deploy import deploy
from primum.diagnosis.deployable import deployable_model
from primum.diagnosis.deployment import load_public
from primum.diagnosis.diagnosis import Diagnosis
from primum.diagnosis.roles import free_address, make_role
from primum.disk import write
from primum.errors import DataError, PrimumError, Unavailable
from primum.federation.coordinator import State
from primum.federation.node import NodeState
from primum.federation.runs import write_json
from primum.federation.scientist import Scientist
from primum.federation.scoring import score_test
from primum.imaging import CHEST_XRAY_PATIENT, PatientSource, Preparation, deal, read_image
from primum.imaging.listing import list_folder
from primum.imaging.named import SETS, Named, find
from primum.imaging.named_fetch import cache_folder, fetch
from primum.imaging.named_unpack import unpack
from primum.imaging.phantom import PHANTOM_PATIENT, draw
from primum.keys.identity import list_fingerprint
from primum.models.card import load_model
from primum.ports import free_port
from primum.report import write_report
from primum.study import About, Deadlines, Hospitals, Images, Privacy, Study, Training

HOSPITALS: Final = 3
DIAGNOSES: Final = 12
EPSILON: Final = 3.0
ROUNDS: Final = 10
"""A quarter of a study's default, at four times its rate: on the chest X-rays as good, and the demo is over sooner."""
RATE: Final = 16.0
DELTA: Final = 1e-5
PUBLIC: Final = SETS["pneumoniamnist"]
"""What is learned from where no images are given: real X-rays of which nobody says whose they are."""
PUBLIC_SIZE: Final = 64
PUBLIC_DELTA: Final = 1e-6
EVALUATION_SHARE: Final = 0.15
LARGEST_LOGIT_ERROR: Final = 0.01
_START: Final = 90.0

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Outcome:
    """What the demo found: the report, the lines for the screen, and whether every answer agreed."""

    report: Path
    lines: tuple[str, ...]
    agrees: bool


@dataclass(frozen=True)
class Pictures:
    """What is learned from: `folder` has train/ and test/; `pattern` finds patients in names of files. `told`: what the
    user should know of them, for the screen."""

    folder: Path
    pattern: str
    kind: Literal["real", "drawn"] = "real"
    unit: Literal["patient", "image"] = "patient"
    delta: float = DELTA
    told: tuple[str, ...] = ()


@dataclass
class Processes:
    """The child processes; all of them end with the demo."""

    folder: Path
    started: list[tuple[str, subprocess.Popen[bytes], Path]] = field(default_factory=list)

    def start(self, name: str, *arguments: str) -> Path:
        """Start `primum` with these arguments; returns its log file."""
        log = self.folder / f"{name}.log"
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "primum", *arguments],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        self.started.append((name, process, log))
        return log

    def wait_for(self, name: str, log: Path, text: str) -> None:
        """Until `text` stands in the log; Unavailable with its last line if the process ends or says nothing."""
        until = time.monotonic() + _START
        while text not in log.read_text(errors="replace"):
            process = next(p for n, p, _ in self.started if n == name)
            if process.poll() is not None or time.monotonic() > until:
                last = log.read_text(errors="replace").strip().splitlines()[-2:] or ["it said nothing"]
                raise Unavailable(f"The {name} did not start: {' '.join(last)[:400]}", f"Its log is {log}.")
            time.sleep(0.05)

    def stop(self) -> None:
        """End them, the newest first, and everything that they started."""
        for _, process, _ in reversed(self.started):
            if process.poll() is None:
                process.terminate()
        for _, process, _ in self.started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


@contextmanager
def _processes(folder: Path) -> Iterator[Processes]:
    running = Processes(folder)
    try:
        yield running
    finally:
        running.stop()


def run_demo(
    out: Path, data: Path | None, progress: Progress, patient: str = CHEST_XRAY_PATIENT, *, drawn: bool = False
) -> Outcome:
    """The whole way in the new folder `out`; `progress(what, share done)` is called throughout.

    `data` has train/ (dealt to the hospitals by patient) and test/ (the scientist's and the clinician's), one folder
    per class in each; None: PneumoniaMNIST, or X-rays are drawn where it cannot be had, or `drawn` asks for it.
    `patient`: regular expression with one group that finds the patient in a file's name, where neither DICOM nor
    labels.csv says it.
    """
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out} is not empty", "Give --out a new folder.")
    if data is not None:
        if drawn:
            raise DataError("images are given, and are to be drawn", "Leave --data or --drawn out.")
        _check_parts(data)
    out.mkdir(parents=True, exist_ok=True)
    out.chmod(0o700)
    out = out.resolve()
    pictures = Pictures(data.resolve(), patient) if data else pictures_for(out, progress, None if drawn else PUBLIC)
    (out / "logs").mkdir()
    with _processes(out / "logs") as running:
        study = _federation(out, running, pictures, progress)
        run = _train(out, study, progress)
        score_test(run, pictures.folder / "test", pictures.pattern)
        rows = _diagnose(out, running, run, pictures.folder / "test", progress)
    _complete(run, rows, pictures.kind)
    progress("writing the report", 0.98)
    report = write_report(run)
    progress("done", 1.0)
    return Outcome(report, (*pictures.told, *_lines(run, rows)), all(row["agrees"] for row in rows))


def pictures_for(
    out: Path, progress: Progress, entry: Named | None, places: tuple[Path, ...] = (), patients: int = 600
) -> Pictures:
    """The named set `entry` as folders in `out`, or drawn X-rays where it is None or cannot be had (which is told).

    The file is looked for in `places` (those of `primum data get` and of this user's cache), and then downloaded to the
    last of them; where nobody answers this is known within 5 seconds.
    """
    why: tuple[str, ...] = ()
    if entry is not None:
        try:
            return _public(out, progress, entry, places or (Path("data"), cache_folder()))
        except PrimumError as error:
            why = (f"{error.message} Real X-rays: `primum data get {entry.name} --size {PUBLIC_SIZE}`.",)
    draw(out / "drawn", patients, progress=lambda done, total: progress("drawing X-rays", 0.1 * done / total))
    told = (*why, "The X-rays were DRAWN by Primum: figures show that it works, not how well it does on patients.")
    return Pictures(out / "drawn", PHANTOM_PATIENT, "drawn", told=told)


def _public(out: Path, progress: Progress, entry: Named, places: tuple[Path, ...]) -> Pictures:
    [source] = entry.sources(PUBLIC_SIZE)
    folder = next((place for place in places if find(entry, source, place)), places[-1])
    progress(f"looking for {source.file}", 0.0)

    def fetched(file: str, here: int, total: int) -> None:
        progress(f"fetching {file}: {here / 1e6:.1f} MB", 0.05 * here / max(total, here, 1))

    fetch(entry, folder, PUBLIC_SIZE, progress=fetched)
    unpack(
        entry, folder, out / entry.name, PUBLIC_SIZE,
        progress=lambda done, total: progress(f"unpacking {entry.name}", 0.05 + 0.05 * done / total),
    )  # fmt: skip
    told = f"X-rays         {entry.name}, {PUBLIC_SIZE} pixels; who is on them is not told: each counts as a patient"
    return Pictures(out / entry.name, CHEST_XRAY_PATIENT, unit="image", delta=PUBLIC_DELTA, told=(told,))


def _check_parts(data: Path) -> None:
    for part in ("train", "test"):
        if not (data / part).is_dir():
            raise DataError(
                f"{data} has no folder {part}/", "Give a folder with train/ and test/, one folder per class in each."
            )


def _federation(out: Path, running: Processes, pictures: Pictures, progress: Progress) -> Study:
    pattern, train = pictures.pattern, pictures.folder / "train"
    progress("starting the coordinator", 0.1)
    state = State.open(out / "coordinator")
    log = running.start("coordinator", "coordinator", "--state", str(state.folder), "--port", str(free_port()))
    folders = tuple(out / f"hospital-{number}" / "images" for number in range(1, HOSPITALS + 1))
    deal(train, folders, os.urandom(32), patients=PatientSource(pattern))
    nodes = [NodeState.open(out / f"hospital-{number}" / "state") for number in range(1, HOSPITALS + 1)]
    members = sorted(node.identity.public for node in nodes)
    scientist = state.scientist.public.hex()
    running.wait_for("coordinator", log, "Coordinator ready")
    for number, (node, folder) in enumerate(zip(nodes, folders, strict=True), start=1):
        progress(f"hospital {number} enrols", 0.12 + 0.02 * number)
        write(node.folder / "policy.toml", _policy(list_fingerprint(members), scientist).encode())
        join = out / f"hospital-{number}" / "coordinator.join"
        write(join, state.invite(f"Hospital {number}").encode())
        arguments = ("--join", str(join), "--data", str(folder), "--state", str(node.folder), "--patient", pattern)
        running.start(f"hospital-{number}", "node", *arguments)
    for number in range(1, HOSPITALS + 1):
        running.wait_for(f"hospital-{number}", running.folder / f"hospital-{number}.log", "Connected")
    return demo_study(members, _training_patients(train, pattern), list_folder(train).classes, pictures)


def _policy(members: str, scientist: str) -> str:
    return (
        "# written by the demo, which plays this hospital's data owner\n"
        f'decide = "policy"\nmembers = "{members}"\naskers = ["{scientist}"]\n'
        f"epsilon_cap = 4.0\nrdp_order = 8\ndelta_max = {DELTA}\ncolluding_min = 1\n"
    )


def _training_patients(train: Path, pattern: str) -> int:
    """A public constant that the scientist writes down; only the step size depends on it."""
    source = PatientSource(pattern)
    named = {source.patient(one.file, one.patient, None) or one.file for one in list_folder(train).entries}
    return max(9, round(len(named) * (1 - EVALUATION_SHARE)))


def demo_study(
    members: list[bytes],
    patients: int,
    classes: tuple[str, ...] = ("NORMAL", "PNEUMONIA"),
    pictures: Pictures | None = None,
) -> Study:
    """The study of the demo: epsilon 3, one hospital may collude with the server; unit patient unless `pictures` do not
    say whose they are."""
    unit, delta = (pictures.unit, pictures.delta) if pictures else ("patient", DELTA)
    return Study(
        study=About(
            name="demo",
            purpose=f"Tell {', '.join(classes)} apart (Primum's demo on one machine).",
            classes=classes,
        ),
        images=Images(size=64),
        training=Training(rounds=ROUNDS, learning_rate=RATE),
        privacy=Privacy(unit=unit, epsilon=EPSILON, delta=delta, patients=patients, evaluation_share=EVALUATION_SHARE),
        hospitals=Hospitals(members=tuple(member.hex() for member in members), colluding=1, may_vanish=0),
        deadlines=Deadlines(consent=120.0),
    )


def _train(out: Path, study: Study, progress: Progress) -> Path:
    progress("training", 0.2)
    scientist = Scientist.at(out / "coordinator")
    run = scientist.submit(study)
    rounds = study.training.rounds

    def show(message: str, line: dict[str, Any]) -> None:
        if "round" in line:
            progress(f"training: round {line['round']} of {rounds}", 0.2 + 0.6 * line["round"] / rounds)
        elif message:
            progress(f"training: {message[:60]}", 0.2)

    scientist.follow(run, show)
    return scientist.fetch(run, out / "runs")


def _diagnose(out: Path, running: Processes, run: Path, test: Path, progress: Progress) -> list[dict[str, Any]]:
    progress("deploying the model", 0.82)
    cards = {}
    for name, kind in (("dealer", "dealer"), ("server-a", "server"), ("server-b", "server")):
        cards[name] = make_role(kind, out / name, free_address(), "" if kind == "dealer" else free_address())  # type: ignore[arg-type]
    model = load_model(run)
    deploy(deployable_model(model), cards["dealer"], cards["server-a"], cards["server-b"], out / "deployment")
    logs = {name: running.start(name, *_role_arguments(out, name)) for name in cards}
    for name, log in logs.items():
        running.wait_for(name, log, "READY")
    files = _held_back(test)
    progress("encrypted diagnoses", 0.88)
    answers = diagnose_files(files, load_public(out / "deployment" / "public.json"))
    preparation = Preparation.from_card(model.card.preparation)
    return [_compare(file, answer, model, preparation) for file, answer in zip(files, answers, strict=True)]


def _role_arguments(out: Path, name: str) -> tuple[str, ...]:
    verb = "dealer" if name == "dealer" else "serve"
    return verb, str(out / "deployment" / f"{name}.json"), "--state", str(out / name)


def _held_back(test: Path) -> list[Path]:
    """Some of the clinician's images, evenly from all folders."""
    files = sorted(test / listed.file for listed in list_folder(test).entries)
    step = max(1, len(files) // DIAGNOSES)
    return files[::step][:DIAGNOSES]


def _compare(file: Path, answer: Diagnosis, model: Any, preparation: Preparation) -> dict[str, Any]:
    pixels = read_image(file, preparation).pixels
    with torch.no_grad():
        plain = model.logits(torch.as_tensor(pixels).unsqueeze(0))[0].double().tolist()
    error = max(abs(a - b) for a, b in zip(answer.logits, plain, strict=True))
    first, second = sorted(plain, reverse=True)[:2]
    margin = first - second
    same = plain.index(max(plain)) == answer.logits.index(max(answer.logits))
    return {
        "image": file.name,
        "seconds": answer.seconds,
        "encrypted": list(answer.logits),
        "plain": plain,
        "agrees": error <= LARGEST_LOGIT_ERROR and (same or margin <= 2 * LARGEST_LOGIT_ERROR),
        "bytes": answer.bytes,
    }


def _complete(run: Path, rows: list[dict[str, Any]], kind: str) -> None:
    write(run / "diagnoses.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    summary = json.loads((run / "summary.json").read_text())
    write_json(run / "summary.json", {**summary, "data": kind})


def _lines(run: Path, rows: list[dict[str, Any]]) -> Iterator[str]:
    summary = json.loads((run / "summary.json").read_text())
    test, privacy, sent = summary["test"], summary["privacy"], summary["bytes"]
    if "auc" in test:
        yield f"Test AUC       {_figure(test, 'auc')}   (the scientist's own {test['images']} images, exact)"
    yield f"Test accuracy  {_figure(test, 'accuracy')}   (the scientist's own {test['images']} images, exact)"
    yield f"Hospitals' own evaluation, private: {_private(summary['hospitals_private'])}"
    yield (
        f"Privacy spent  epsilon {privacy['epsilon']:.2f} at delta {privacy['delta']:g} per {privacy['unit']}; "
        f"{privacy['epsilon_all_others_collude']:.2f} if all other hospitals collude"
    )
    yield (
        f"Bytes          {sent['per_hospital_and_round_up']:,} sent and {sent['per_hospital_and_round_down']:,} received "
        "per hospital and round"
    )
    yield f"Round          {summary['round_seconds']:.2f} s (median)"
    seconds = sum(row["seconds"] for row in rows) / len(rows)
    yield f"Diagnosis      {seconds:.3f} s and {rows[0]['bytes']:,} bytes each, encrypted"
    worst = max(abs(a - b) for row in rows for a, b in zip(row["encrypted"], row["plain"], strict=True))
    agreeing = sum(row["agrees"] for row in rows)
    yield f"Agreement      {agreeing} of {len(rows)} with the plaintext model (largest logit difference {worst:.5f})"
    pinned = "compared by the hospitals" if summary["pinned"] else "NOT pinned: honest-but-curious server only"
    yield f"Members        {pinned}"


def _figure(figures: dict[str, Any], name: str) -> str:
    return f"{figures[name]:.3f} [{figures[name + '_low']:.3f}, {figures[name + '_high']:.3f}]"


def _private(figures: dict[str, Any]) -> str:
    if figures.get("too_few") or "accuracy" not in figures:
        return str(figures.get("text", "none"))
    shown = [
        f"{name} {_figure(figures, key)}" for name, key in (("AUC", "auc"), ("accuracy", "accuracy")) if key in figures
    ]
    return ", ".join(shown)
