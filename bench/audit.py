"""How much of the promised epsilon can an attacker show? `scripts/bench audit`; JSON on the last line.

PneumoniaMNIST's training images in three hospitals, of which one colludes with the server: scattering features, one
linear layer, 100 rounds of Poisson samples at q = 0.2, delta 1e-6, with the real learners (clipping, integers, noise
from AES-CTR). The attacker sees each round's sum less the part of the colluding hospital, that is the noise of two; the
promise is for exactly that, so his bounds are to be held against the accounted epsilon.

White box: 2,000 canaries in the directions that the images use least, each in by a coin; heard in each round. Black
box: the validation images with the wrong label, each in by a coin; the loss under the final model. Every run has fresh coins
and fresh noise, and the canaries of all runs are put together: runs are independent, so together they are one mechanism
that is as private for each canary. All bounds at delta of the study and confidence 95 %:

| column | valid for |
|---|---|
| one run | any mechanism (`attacks/one_run.py`) |
| curve | noise of the law that is claimed, of whatever width (`attacks/trade_off.py`) |
| trials | the same, and canaries that do not disturb each other; white box only |

A bound above the accounted epsilon is a mistake in the training: the program then ends with 1.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from primum.attacks import (
    Canaries,
    best_bound,
    by_likelihood,
    by_sum,
    epsilon_of_curve,
    guess,
    listen,
    quiet_directions,
    threshold,
)
from primum.dp import account
from primum.dp.account import Steps
from primum.imaging.dataset import Dataset
from primum.imaging.medmnist import read_medmnist
from primum.models.scattering import FrontEnd
from primum.rng import Stream
from primum.study import About, Hospitals, Images, Privacy, Study, Training
from primum.study.kinds import Model
from primum.tasks import simulation
from primum.tasks.learner import Learner
from primum.tasks.plan import Plan, resolve

DATA = Path(os.environ.get("PRIMUM_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
MEMBERS = tuple(f"{place:064x}" for place in (1, 2, 3))  # names only: nothing is signed here
CLASSES = ("NORMAL", "PNEUMONIA")
EPSILONS = (1, 3, 8)
QUIET = 2000
HONEST = 2
GUESSED = 0.1  # of the canaries, by the curve
RUNS = 4

Reals = npt.NDArray[np.float64]


@dataclass
class Pool:
    """Scores and coins of all runs."""

    scores: list[Reals] = field(default_factory=list)
    coins: list[npt.NDArray[np.bool_]] = field(default_factory=list)

    def add(self, scores: Reals, coins: npt.NDArray[np.bool_]) -> None:
        """One run's."""
        self.scores.append(scores)
        self.coins.append(coins)

    def all(self) -> tuple[Reals, npt.NDArray[np.bool_]]:
        """Scores [runs m], coins [runs m]."""
        return np.concatenate(self.scores), np.concatenate(self.coins)


@dataclass(frozen=True)
class Patients:
    """What all runs share: training images, their features, quiet directions, features of mislabelled images."""

    train: Dataset
    features: Tensor
    quiet: Tensor
    wrong: Tensor
    wrong_labels: Tensor


def patients() -> Patients:
    """Read and transformed; the validation images with the other label."""
    splits, front_end = read_medmnist(DATA / "medmnist" / "pneumoniamnist.npz", CLASSES), FrontEnd(28, 2)
    train, other = splits["train"], splits["val"]
    features = front_end.features(train.images)
    return Patients(
        train, features, quiet_directions(features, QUIET), front_end.features(other.images), 1 - other.labels
    )


def study(epsilon: float, units: int) -> Study:
    """Each image its own unit; `units` are the images and all canaries."""
    return resolve(
        Study(
            study=About(name="audit", purpose="an audit", classes=CLASSES),
            images=Images(size=28),
            model=Model(scales=2),
            training=Training(rounds=100, sampling=0.2, clipping_norm=0.25, learning_rate=8.0),
            privacy=Privacy(
                unit="image",
                epsilon=epsilon,
                delta=1e-6,
                patients=units,
                images_per_patient=1,
                evaluation_share=0.0,
                looks=0,
            ),
            hospitals=Hospitals(members=MEMBERS, colluding=1),
        )
    )


@dataclass(frozen=True)
class Result:
    """One epsilon's figures."""

    accounted: float
    white: dict[str, float]
    black: dict[str, float]
    canaries: int
    seconds: float


def run(plan: Plan, data: Patients, number: int, kind: str) -> tuple[Canaries, Reals, npt.NDArray[np.float32]]:
    """One training with canaries in the first hospital."""
    stream = Stream.from_os()
    if kind == "white":
        birds = Canaries.draw(data.quiet, torch.arange(len(data.quiet)) % 2, stream)
    else:
        birds = Canaries.draw(data.wrong, data.wrong_labels, stream)
    cohorts = simulation.deal(data.features, data.train, len(MEMBERS), number.to_bytes(32, "big"))
    cohorts[0] = birds.join(cohorts[0])
    heard = listen(plan, [Learner(plan, cohort) for cohort in cohorts], birds, HONEST)
    return birds, heard.steps, heard.weights


def measure(epsilon: int, data: Patients, runs: int) -> Result:
    """All runs at one epsilon."""
    began, plan = time.monotonic(), Plan(study(epsilon, len(data.train) + QUIET))
    plan.check()
    claimed, delta = plan.training_steps(plan.study.training.rounds, HONEST), plan.accounted_delta
    white, sums, black = Pool(), Pool(), Pool()
    for number in range(runs):
        birds, steps, _ = run(plan, data, number, "white")
        white.add(by_likelihood(steps, claimed.q, claimed.sigma), birds.included)
        sums.add(by_sum(steps), birds.included)
        birds, _, weights = run(plan, data, number, "black")
        black.add(birds.unlikely(weights), birds.included)
    figures = {**bounds(*white.all(), claimed, delta), "trials": trials(*sums.all(), claimed, delta)}
    accounted = account.epsilon(claimed, delta)
    seconds = time.monotonic() - began
    return Result(accounted, figures, bounds(*black.all(), claimed, delta), len(white.all()[0]), seconds)


def bounds(scores: Reals, coins: npt.NDArray[np.bool_], claimed: Steps, delta: float) -> dict[str, float]:
    """The two that hold for one run."""
    half = round(GUESSED * len(scores) / 2)
    return {
        "one run": best_bound(scores, coins, delta),
        "curve": epsilon_of_curve(guess(scores, coins, half, half), claimed, delta),
    }


def trials(scores: Reals, coins: npt.NDArray[np.bool_], claimed: Steps, delta: float) -> float:
    """By a threshold half-way between what is expected of canaries that are in and out."""
    return epsilon_of_curve(threshold(scores, coins, claimed.q * claimed.count / 2), claimed, delta)


def table(results: dict[int, Result]) -> Table:
    """For people."""
    drawn = Table(title="lower bounds on epsilon, 95 %; three hospitals, one colludes with the server")
    columns = ("accounted", "white: one run", "curve", "trials", "of accounted", "black: one run", "curve")
    for column in ("epsilon", *columns, "canaries", "s"):
        drawn.add_column(column, justify="right")
    for epsilon, result in results.items():
        best = max(result.white.values())
        drawn.add_row(
            f"{epsilon}",
            f"{result.accounted:.3f}",
            *(f"{value:.2f}" for value in result.white.values()),
            f"{100 * best / result.accounted:.0f} %",
            *(f"{value:.2f}" for value in result.black.values()),
            f"{result.canaries}",
            f"{result.seconds:.0f}",
        )
    return drawn


def figures(results: dict[int, Result]) -> dict[str, float]:
    """The keys of the last line: the best white-box bound, the one for any mechanism, the best black-box bound."""
    found: dict[str, float] = {}
    for epsilon, result in results.items():
        found[f"audit_white_eps{epsilon}"] = max(result.white.values())
        found[f"audit_white_one_run_eps{epsilon}"] = result.white["one run"]
        found[f"audit_black_eps{epsilon}"] = max(result.black.values())
        found[f"audit_ratio_eps{epsilon}"] = max(result.white.values()) / result.accounted
    return {name: round(value, 3) for name, value in found.items()}


def main() -> int:
    """Print the table and the line of JSON; 1 where a bound is above what was accounted."""
    parser = argparse.ArgumentParser(prog="scripts/bench audit", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=RUNS, help="runs per epsilon and box")
    parser.add_argument("--only", nargs="*", type=int, choices=EPSILONS, help="these epsilons only")
    arguments = parser.parse_args()
    if not DATA.is_dir():
        print(f"No images in {DATA}. Set PRIMUM_DATA to the folder that holds medmnist/.", file=sys.stderr)
        return 2
    data, results = patients(), {}
    for epsilon in arguments.only or EPSILONS:
        results[epsilon] = measure(epsilon, data, arguments.runs)
        print(f"epsilon {epsilon}: {results[epsilon]}", file=sys.stderr, flush=True)
    Console(width=140).print(table(results))
    print(json.dumps(figures(results)))
    above = [max(*one.white.values(), *one.black.values()) > one.accounted for one in results.values()]
    return 1 if any(above) else 0


if __name__ == "__main__":
    sys.exit(main())
