"""How good are the classifiers, at which epsilon? `scripts/bench accuracy`; JSON on the last line.

Drives the parts of the federation in one process: three hospitals (patients dealt by a keyed hash), each with its own
`Learner`, its own Poisson samples and its own integer noise from AES-CTR; the three integer vectors are added in the
ring of the study; one `Optimiser`. Noise multipliers come from `resolve` (PLD; one hospital may collude, so the noise
of two must be enough) and `Plan.check` passes, as at every node. What is missing is only what cannot change a figure:
masks, TLS, processes. No evaluation share: all training patients train, the published test images test.

PneumoniaMNIST: official train split (4,708 images, unit image, delta 1e-6), official test split. Chest X-rays at 64
pixels: train/ (379 patients, unit patient, delta 1e-5), test/ (138 other patients).

How SETTINGS were chosen: on training images only, with the noise of the full set, by mean AUC first and accuracy at 0.5
second. PneumoniaMNIST: two to four of five random folds of its train split, beside its val split (which shares 8
pictures with train), over scales 2 and 3, rounds 40 to 300, sampling 0.1 to 1, clipping 0.1 to 1, learning rate 1 to
128. Chest: five folds by patient, over scales 2 and 3, rounds 40 to 400, sampling 0.3 to 1, clipping 0.1 to 1, learning
rate 0.5 to 32. No setting was chosen by test images, but they were seen before all settings were final: once to try the
program (auc_none, auc_pooled, chest_eps1, with other settings), and auc_eps3 with two earlier settings (0.9540 and
0.9513), after which a finer search on the training images gave the present one. A search of this kind is not private:
in a real study it would be done on public images, or be paid for.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from primum import ring
from primum.imaging import PatientSource, Preparation, read_folder
from primum.imaging.dataset import Dataset, assert_disjoint
from primum.imaging.medmnist import read_medmnist
from primum.imaging.patient import CHEST_XRAY_PATIENT
from primum.imaging.split import split_patients
from primum.models.linear import LinearHead, logits_of
from primum.models.scattering import FrontEnd
from primum.study import About, Aggregation, Hospitals, Images, Model, Privacy, Study, Training
from primum.tasks import metrics
from primum.tasks.classification import Cohort, Learner
from primum.tasks.plan import Plan, resolve
from primum.tasks.training import Optimiser

DATA = Path(os.environ.get("PRIMUM_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
MEMBERS = tuple(f"{place:064x}" for place in (1, 2, 3))  # names only: nothing is signed here
CLASSES = ("NORMAL", "PNEUMONIA")
RUNS = 5


@dataclass(frozen=True)
class Setting:
    """One line of the benchmark."""

    data: str
    epsilon: float | None
    bar: float
    scales: int
    rounds: int
    sampling: float
    clipping_norm: float
    learning_rate: float

    def training(self) -> Training:
        """As a study says it."""
        return Training(
            rounds=self.rounds,
            sampling=self.sampling,
            clipping_norm=self.clipping_norm,
            learning_rate=self.learning_rate,
        )


SETTINGS = {
    #                       data      eps   bar    J   T    q    C     learning rate
    "auc_eps1": Setting("pneumonia", 1.0, 0.925, 2, 100, 0.2, 0.25, 8.0),
    "auc_eps3": Setting("pneumonia", 3.0, 0.952, 2, 300, 0.11, 0.1, 16.0),
    "auc_eps8": Setting("pneumonia", 8.0, 0.96, 2, 200, 0.2, 0.25, 32.0),
    "auc_none": Setting("pneumonia", None, 0.965, 2, 150, 0.2, 1.0, 32.0),
    "chest_eps1": Setting("chest", 1.0, 0.90, 3, 80, 0.5, 0.1, 2.0),
    "chest_eps3": Setting("chest", 3.0, 0.97, 2, 80, 0.5, 0.1, 8.0),
    "chest_eps8": Setting("chest", 8.0, 0.985, 2, 80, 0.5, 0.25, 8.0),
    "chest_none": Setting("chest", None, 0.99, 3, 200, 0.5, 1.0, 8.0),
}
POOLED_WITHIN = 0.003  # of auc_none


@dataclass(frozen=True)
class Source:
    """Training and test images, and how a study promises privacy to them."""

    train: Dataset
    test: Dataset
    unit: str
    delta: float
    size: int

    @property
    def units(self) -> int:
        """N: patients."""
        return self.train.patient_count


def pneumonia() -> Source:
    """PneumoniaMNIST, official split; each image its own patient."""
    splits = read_medmnist(DATA / "medmnist" / "pneumoniamnist.npz", CLASSES)
    return Source(splits["train"], splits["test"], "image", 1e-6, 28)


def chest() -> Source:
    """The chest X-rays, by patient."""
    who = PatientSource(CHEST_XRAY_PATIENT)
    train, test = (
        read_folder(
            DATA / "chest" / part, CLASSES, preparation=Preparation(size=64), patients=who, pseudonym_key=bytes(32)
        ).dataset
        for part in ("train", "test")
    )
    assert_disjoint(train, test)
    return Source(train, test, "patient", 1e-5, 64)


SOURCES: dict[str, Callable[[], Source]] = {"pneumonia": pneumonia, "chest": chest}


def study(setting: Setting, source: Source, bits: int | None = None) -> Study:
    """The study that the hospitals would sign up to, with its noise multiplier; with `bits` in so many a coordinate."""
    privacy = None
    if setting.epsilon is not None:
        privacy = Privacy(
            unit=source.unit,  # type: ignore[arg-type]
            epsilon=setting.epsilon,
            delta=source.delta,
            patients=source.units,
            images_per_patient=1 if source.unit == "image" else 20,
            evaluation_share=0.0,
            looks=0,
        )
    return resolve(
        Study(
            study=About(name="bench", purpose="accuracy", classes=CLASSES),
            images=Images(size=source.size),
            model=Model(scales=setting.scales),
            training=setting.training(),
            aggregation=Aggregation(bits=bits if privacy else None),
            privacy=privacy,
            hospitals=Hospitals(members=MEMBERS, colluding=1),
        )
    )


def deal(features: Tensor, data: Dataset, run: int) -> list[Cohort]:
    """Three hospitals, patients by a keyed hash; another key each run."""
    key = run.to_bytes(32, "big")
    first = split_patients(data.patients, 1 / 3, key)
    second = ~first & split_patients(data.patients, 1 / 2, key[::-1])
    parts = (first, second, ~first & ~second)
    names = np.array(data.patients)
    return [
        Cohort(features[part], data.labels[part], tuple(names[part].tolist())) for part in map(torch.from_numpy, parts)
    ]


def federated(plan: Plan, cohorts: list[Cohort], units: int) -> npt.NDArray[np.float32]:
    """Train as the federation does; the averaged weights."""
    training, bits = plan.study.training, plan.update.shape.bits
    update = replace(plan.update, expected_batch=training.sampling * units)
    learners = [Learner(plan, cohort) for cohort in cohorts]
    optimiser = Optimiser.start(training, plan.dimension)
    for _ in range(training.rounds):
        weights = optimiser.weights.astype(np.float32)
        vectors = [ring.from_signed(learner.step(weights), bits) for learner in learners]
        total = ring.to_signed(sum(vectors[1:], vectors[0]) & ring.mask(bits), bits)
        optimiser.step(update.mean_gradient(total, len(learners)))
    return optimiser.result.astype(np.float32)


def pooled(features: Tensor, labels: Tensor, setting: Setting, run: int) -> npt.NDArray[np.float32]:
    """One plain PyTorch loop: no nodes, no clipping, no integers, no averaging of weights."""
    torch.manual_seed(run)
    head = LinearHead(features.shape[1], 1)
    optimiser = torch.optim.SGD(head.parameters(), lr=setting.learning_rate, momentum=0.9)
    batch = round(setting.sampling * len(labels))
    for step in range(setting.rounds):
        if step % (len(labels) // batch) == 0:
            order = torch.randperm(len(labels))
        chosen = order[(step % (len(labels) // batch)) * batch :][:batch]
        optimiser.zero_grad()
        nn.functional.cross_entropy(logits_of(head(features[chosen])), labels[chosen]).backward()
        optimiser.step()
    return head.weight.detach().reshape(-1).numpy()


@dataclass(frozen=True)
class Result:
    """What came out of one line's runs."""

    aucs: list[float]
    accuracies: list[float]
    sigma: float
    seconds: float


def score(weights: npt.NDArray[np.float32], features: Tensor, labels: Tensor) -> tuple[float, float]:
    """Test AUC and accuracy at probability 0.5."""
    logits = features.numpy() @ weights
    return metrics.auc(labels.numpy(), logits.astype(np.float64)), float(((logits > 0) == labels.numpy()).mean())


def measure(
    key: str, runs: int, bits: int | None, cache: dict[object, tuple[Tensor, Tensor]], sources: dict[str, Source]
) -> Result:
    """All runs of one line."""
    plain = key == "auc_pooled"
    setting = SETTINGS["auc_none" if plain else key]
    source = sources.setdefault(setting.data, sources.get(setting.data) or SOURCES[setting.data]())
    front_end = FrontEnd(source.size, setting.scales)
    if front_end not in cache:
        cache[front_end] = front_end.features(source.train.images), front_end.features(source.test.images)
    train, test = cache[front_end]
    plan = Plan(study(setting, source, bits))
    plan.check()
    units = source.units if plan.study.privacy else len(source.train)
    began, scores = time.monotonic(), []
    for run in range(runs):
        if plain:
            weights = pooled(train, source.train.labels, setting, run)
        else:
            weights = federated(plan, deal(train, source.train, run), units)
        scores.append(score(weights, test, source.test.labels))
    privacy = plan.study.privacy
    aucs, accuracies = ([pair[i] for pair in scores] for i in (0, 1))
    return Result(aucs, accuracies, privacy.noise_multiplier if privacy else 0.0, time.monotonic() - began)


def passed(key: str, results: dict[str, Result]) -> bool:
    """Whether the line reaches its bar."""
    mean = float(np.mean(results[key].aucs))
    if key == "auc_pooled":
        return "auc_none" not in results or abs(mean - float(np.mean(results["auc_none"].aucs))) <= POOLED_WITHIN
    return mean >= SETTINGS[key].bar


def table(results: dict[str, Result]) -> Table:
    """For people."""
    drawn = Table(
        title=f"test AUC, mean of {len(next(iter(results.values())).aucs)} runs, three hospitals, one may collude"
    )
    for column in (
        "key",
        "epsilon",
        "J",
        "T",
        "q",
        "C",
        "rate",
        "noise",
        "AUC",
        "lowest",
        "highest",
        "bar",
        "accuracy",
        "s",
    ):
        drawn.add_column(column, justify="left" if column == "key" else "right")
    for key, result in results.items():
        setting = SETTINGS.get(key, SETTINGS["auc_none"])
        bar = f"none ± {POOLED_WITHIN}" if key == "auc_pooled" else f"{setting.bar:g}"
        drawn.add_row(
            key,
            "none" if setting.epsilon is None else f"{setting.epsilon:g}",
            *(f"{value:g}" for value in (setting.scales, setting.rounds, setting.sampling)),
            "-" if key == "auc_pooled" else f"{setting.clipping_norm:g}",
            f"{setting.learning_rate:g}",
            f"{result.sigma:.2f}",
            *(f"{value:.4f}" for value in (np.mean(result.aucs), min(result.aucs), max(result.aucs))),
            bar if passed(key, results) else f"{bar} MISSED",
            f"{np.mean(result.accuracies):.3f}",
            f"{result.seconds:.0f}",
        )
    return drawn


def main() -> int:
    """Print the table and the line of JSON; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="scripts/bench accuracy", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=RUNS, help="runs per line")
    parser.add_argument("--only", nargs="*", help="these keys only", choices=[*SETTINGS, "auc_pooled"])
    parser.add_argument("--bits", type=int, help="exactly so many bits a coordinate, where there is noise (8 to 32)")
    arguments = parser.parse_args()
    if not DATA.is_dir():
        print(f"No images in {DATA}. Set PRIMUM_DATA to the folder that holds medmnist/ and chest/.", file=sys.stderr)
        return 2
    keys = [*list(SETTINGS)[:4], "auc_pooled", *list(SETTINGS)[4:]]
    console, results = Console(width=140), {}
    cache: dict[object, tuple[Tensor, Tensor]] = {}
    sources: dict[str, Source] = {}
    for key in arguments.only or keys:
        results[key] = measure(key, arguments.runs, arguments.bits, cache, sources)
        print(f"{key}: {np.mean(results[key].aucs):.4f} in {results[key].seconds:.0f} s", file=sys.stderr, flush=True)
    console.print(table(results))
    print(json.dumps({key: round(float(np.mean(result.aucs)), 4) for key, result in results.items()}))
    return 0 if all(passed(key, results) for key in results) else 1


if __name__ == "__main__":
    sys.exit(main())
