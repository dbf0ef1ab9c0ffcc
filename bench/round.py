"""One round of private training against the same round in clear, over the same Flower, TLS and processes.

Default model, chest X-rays at 64 pixels (drawn ones where there are no real ones), q 0.5, three nodes. The plain rounds
are what anybody would write on this transport: the same nodes compute the same clipped gradient and send float32 in
clear, in two exchanges (vector, then a word that it arrived) or in one. The last line is JSON:

round_ratio  seconds of our round over those of a plain round of two exchanges
plain_ratio  over those of a plain round of one exchange
exchange_s   seconds of one exchange of ours, without local work
..._1m       the same with a model of a million coordinates (scattering of 448 x 448 pixels)
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from primum.demo import demo_study
from primum.federation.coordinator import Coordinator, State
from primum.federation.node import NodeState
from primum.federation.scientist import Scientist
from primum.federation.superlink import bundle
from primum.imaging import CHEST_XRAY_PATIENT, PatientSource, deal
from primum.imaging.phantom import PHANTOM_PATIENT, draw
from primum.ports import free_port
from primum.study import Study
from primum.tasks.plan import Plan

ROUNDS = 40
LARGE_ROUNDS = 8
NODES = 3
_REPOSITORY = Path(__file__).resolve().parent.parent


def images(folder: Path) -> tuple[Path, str]:
    """Training images and the pattern of their patients."""
    data = Path(os.environ.get("PRIMUM_DATA") or _REPOSITORY.parent / "shared" / "data") / "chest"
    if data.is_dir():
        return data / "train", CHEST_XRAY_PATIENT
    return draw(folder / "drawn") / "train", PHANTOM_PATIENT


@contextmanager
def nodes(folder: Path, module: list[str], pattern: str) -> Iterator[None]:
    """Three processes, connected; ended afterwards."""
    running = []
    for number in range(NODES):
        log = folder / f"node-{number}.log"
        command = [sys.executable, "-m", *module, "--join", str(folder / f"{number}.join")]
        command += ["--data", str(folder / f"images-{number}"), "--state", str(folder / f"node-{number}")]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(_REPOSITORY)}
        with log.open("wb") as out:
            running.append(subprocess.Popen([*command, "--patient", pattern], stdout=out, stderr=out, env=environment))
    try:
        while not all("Connected" in (folder / f"node-{n}.log").read_text() for n in range(NODES)):
            if any(process.poll() is not None for process in running):
                raise SystemExit((folder / "node-0.log").read_text())
            time.sleep(0.1)
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(timeout=20)


@dataclass(frozen=True)
class Measured:
    """Seconds of our rounds after the first, of the local work in them, and of the plain rounds."""

    dimension: int
    ours: list[float]
    local: list[float]
    plain: dict[str, list[float]]


def measure(size: int, scales: int, rounds: int) -> Measured:
    """Ours, then plain, in one run, for scattering features of images of this size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train, pattern = images(folder)
        deal(
            train, tuple(folder / f"images-{n}" for n in range(NODES)), os.urandom(32), patients=PatientSource(pattern)
        )
        state = State.open(folder / "coordinator")
        os.environ["PYTHONPATH"] = str(_REPOSITORY)  # the plain server program is found there
        coordinator = Coordinator(state, "127.0.0.1", free_port(), lambda text: None)
        ready = threading.Event()
        threading.Thread(target=coordinator.serve, args=(lambda address: ready.set(),), daemon=True).start()
        ready.wait(60)
        members = []
        for number in range(NODES):
            node = NodeState.open(folder / f"node-{number}")
            members.append(node.identity.public)
            (node.folder / "policy.toml").write_text("epsilon_cap = 8.0\n")
            (folder / f"{number}.join").write_text(state.invite(f"node {number}"))
        study = study_of(members, size, scales, rounds)
        with nodes(folder, ["primum", "node"], pattern):
            scientist = Scientist.at(state.folder)
            run = scientist.submit(study)
            scientist.follow(run, lambda message, line: None)
            lines = [json.loads(text) for text in (state.runs / run / "metrics.jsonl").read_text().splitlines()][1:]
        with nodes(folder, ["bench.plain_node"], pattern):
            link = coordinator.superlink
            number = link.start_run(run, bundle("bench.plain_app"))
            while not link.run_status(number).startswith("finished"):
                time.sleep(0.2)
            plain = json.loads((state.runs / run / "plain.json").read_text())
        coordinator.stop()
    dimension = Plan(study).dimension
    return Measured(dimension, [line["seconds"] for line in lines], [line["local_seconds"] for line in lines], plain)


def study_of(members: list[bytes], size: int, scales: int, rounds: int) -> Study:
    """The study of the demo at another size."""
    study = demo_study(sorted(members), 322)
    return study.model_copy(
        update={
            "images": study.images.model_copy(update={"size": size}),
            "model": study.model.model_copy(update={"scales": scales}),
            "training": study.training.model_copy(update={"rounds": rounds}),
        }
    )


def ratios(measured: Measured) -> tuple[float, float, float]:
    """Our round over a plain one of two exchanges, over one of one, and seconds of an exchange; prints the table."""
    whole, work = median(measured.ours), median(measured.local)
    two, one, plain_work = (median(measured.plain[key]) for key in ("two", "one", "local"))
    exchange = (whole - work) / 2
    print(f"{measured.dimension:,} coordinates")
    print(
        f"  our round                 {whole:.3f} s (median of {len(measured.ours)}), of which local work {work:.3f} s"
    )
    print(f"  plain, two exchanges      {two:.3f} s, of which local work {plain_work:.3f} s")
    print(f"  plain, one exchange       {one:.3f} s")
    print(f"  one exchange of ours      {exchange:.3f} s")
    return whole / two, whole / one, exchange


def main() -> None:
    """The default model, then a large one; the table, then JSON."""
    small = ratios(measure(64, 3, ROUNDS))
    large = ratios(measure(448, 2, LARGE_ROUNDS))
    figures = {
        "round_ratio": small[0],
        "plain_ratio": small[1],
        "exchange_s": small[2],
        "round_ratio_1m": large[0],
        "plain_ratio_1m": large[1],
    }
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
