"""Masks, and hospitals that hold different classes: how good are the models? `scripts/bench imaging`; JSON last.

Drives the parts of the federation in one process as `bench/accuracy.py` does: three hospitals, each with its own
`Learner`, samples and integer noise, added in the ring of the study. Images come through the node's own reader.

| key | what |
|---|---|
| hippocampus_dice | 30 volumes of the Medical Segmentation Decathlon train, 10 others test; mean Dice of both structures, a volume |
| hippocampus_3d_dice | the same patients, patches of 32 x 32 x 32 voxels of 1 mm, blended into volumes of these voxels |
| hippocampus_dice_eps8 | the same patients, epsilon 8 for each of the 30: all slices of one are one unit |
| hippocampus_dice_eps8_slice | epsilon 8 for each slice: NO promise to a patient, who has about 50 of them |
| lungs_dice, lungs_dice_eps8 | 100 of the 138 Montgomery X-rays train, 38 test; epsilon 8 per patient, delta 5e-5 |
| federated_gap | the largest difference of a Dice to the same study on one hospital that holds everything |
| mnist_skewed, mnist_skewed_eps3 | 10,000 digits, 0 to 3, 4 to 6, 7 to 9 at one hospital each; accuracy on the 10,000 of the test set |
| mask_difference | share of pixels of an encrypted mask that differ from the mask in clear; largest of the test images |

Patients are split by a keyed hash, never by an image. Settings were chosen on the same split of training and test
patients as is reported here: with 10 and 38 test patients they are not unseen, and the figures say that the machinery
learns, not what a clinic may expect.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench.inference_roles import roles
from primum.diagnosis.data_owner import diagnose
from primum.diagnosis.deployable import deployable_model
from primum.imaging import PatientSource, Preparation, read_masked_folder
from primum.imaging.dataset import Dataset
from primum.imaging.named import open_named
from primum.models.card import Card, TrainedModel
from primum.models.learned import write_weights
from primum.study import Study
from primum.tasks import simulation
from primum.tasks.learner import Cohort
from primum.tasks.look import outputs_of
from primum.tasks.plan import Plan, resolve
from primum.tasks.segmentation import mask_figures
from primum.tasks.windows import whole_masks

DATA = Path(os.environ.get("PRIMUM_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
MEMBERS = tuple(f"{place:064x}" for place in (1, 2, 3))  # names only: nothing is signed here
SKEW = ((0, 1, 2, 3), (4, 5, 6), (7, 8, 9))
Weights = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Setting:
    """One line: which images, the parts of its study, what it is to reach, whether it is compared with one hospital, and
    of how many runs the figure is the mean: noise makes single runs differ."""

    data: str
    bar: float
    model: dict[str, Any]
    training: dict[str, Any]
    images: dict[str, Any]
    privacy: dict[str, Any] | None = None
    augmentation: dict[str, Any] | None = None
    pooled: bool = False
    runs: int = 1


_ADAM = {"optimiser": "adam", "schedule": "cosine", "average_last": 0.1, "clipping_norm": 1.0}
_FEW = {"clipping": "automatic", "clipping_norm": 0.15, "learning_rate": 40.0}
_SMALL = {"size": 32, "channels": 1, "fit": "crop", "spacing": 1.0, "axis": "coronal"}
SETTINGS = {
    "hippocampus_dice": Setting(
        "hippocampus",
        0.82,
        {"kind": "u-net", "widths": (24, 48, 96)},
        {**_ADAM, "rounds": 500, "sampling": 0.02, "learning_rate": 0.003, "clipping": "automatic"},
        {"size": 48, "channels": 3, "context": 1, "fit": "crop", "spacing": 1.0, "axis": "coronal"},
        augmentation={"rotation": 12, "scale": 0.15, "shift": 0.06, "elastic": 1.0, "gamma": 0.3, "noise": 0.1},
        pooled=True,
    ),
    "hippocampus_3d_dice": Setting(
        "hippocampus",
        0.82,
        {"kind": "u-net", "widths": (8, 16, 32)},
        {**_ADAM, "rounds": 320, "sampling": 0.04, "learning_rate": 0.02, "clipping": "automatic"},
        {"size": 32, "fit": "patches", "spacing": 1.0},
    ),
    "hippocampus_dice_eps8": Setting(
        "hippocampus",
        0.0,
        {"kind": "pixel-linear", "scales": 3, "places": 4},
        {**_FEW, "rounds": 30, "sampling": 1.0, "images_a_patient": 20},
        _SMALL,
        {"epsilon": 8.0, "delta": 3e-4, "patients": 30},
    ),
    "hippocampus_dice_eps8_slice": Setting(
        "hippocampus",
        0.0,
        {"kind": "pixel-linear", "scales": 3, "places": 4},
        {**_FEW, "rounds": 60, "sampling": 0.2},
        _SMALL,
        {"epsilon": 8.0, "delta": 6e-6, "patients": 1482, "unit": "image", "images_per_patient": 64},
    ),
    "lungs_dice": Setting(
        "lungs",
        0.95,
        {"kind": "u-net", "widths": (16, 32, 64)},
        {**_ADAM, "rounds": 250, "sampling": 0.2, "learning_rate": 0.003},
        {"size": 64},
        pooled=True,
    ),
    "lungs_dice_eps8": Setting(
        "lungs",
        0.85,
        {"kind": "pixel-linear", "scales": 4, "places": 8},
        {"rounds": 120, "sampling": 1.0, "clipping": "automatic", "clipping_norm": 0.15, "learning_rate": 5.0},
        {"size": 64},
        {"epsilon": 8.0, "delta": 5e-5, "patients": 100},
        runs=3,
    ),
    "mnist_skewed": Setting(
        "mnist",
        0.96,
        {"kind": "scattering-linear", "scales": 2},
        {"rounds": 100, "sampling": 1.0, "clipping_norm": 1.0, "learning_rate": 256.0, "momentum": 0.0},
        {"size": 28},
    ),
    "mnist_skewed_eps3": Setting(
        "mnist",
        0.90,
        {"kind": "multiscale-linear", "scales": (2,), "views": "one"},
        {"rounds": 60, "sampling": 1.0, "clipping_norm": 0.1, "learning_rate": 256.0, "momentum": 0.0},
        {"size": 28},
        {"epsilon": 3.0, "delta": 1e-6, "patients": 10_000, "unit": "image", "images_per_patient": 1},
    ),
}


@dataclass(frozen=True)
class Source:
    """Training images of each hospital, and test images."""

    hospitals: tuple[Dataset, ...]
    test: Dataset

    @property
    def units(self) -> int:
        """Training patients of all hospitals."""
        return sum(one.patient_count for one in self.hospitals)

    @property
    def images(self) -> int:
        """Training images of all hospitals."""
        return sum(len(one) for one in self.hospitals)


def masks(folder: str, patient: str, training: int, images: dict[str, Any]) -> Source:
    """A folder of images with masks: `training` patients, dealt in turn to three hospitals, and the rest to test."""
    data = read_masked_folder(
        DATA / folder, preparation=Preparation(**images), patients=PatientSource(patient), pseudonym_key=bytes(32)
    ).dataset
    order = sorted(set(data.patients))  # pseudonyms: as good as drawn
    side = {who: place % 3 if place < training else 3 for place, who in enumerate(order)}
    parts = [data.select([side[who] == place for who in data.patients]) for place in range(4)]
    return Source(tuple(parts[:3]), parts[3])


def digits() -> Source:
    """MNIST by label: the most uneven hospitals there are."""
    splits = open_named("mnist", DATA / "mnist").splits
    train = splits["train"]
    parts = tuple(train.select([label in labels for label in train.labels.tolist()]) for labels in SKEW)
    return Source(parts, splits["test"])


def source_of(setting: Setting) -> Source:
    """The images of a line."""
    makers: dict[str, Callable[[], Source]] = {
        "hippocampus": lambda: masks("hippocampus", r"(hippocampus_\d+)", 30, setting.images),
        "lungs": lambda: masks("lungs_montgomery", r"(MCUCXR_\d+)", 100, setting.images),
        "mnist": digits,
    }
    return makers[setting.data]()


def study_of(key: str, setting: Setting, classes: Sequence[str], run: int) -> Study:
    """The study that the hospitals would sign up to, with its noise multiplier."""
    task = "classification" if setting.data == "mnist" else "segmentation"
    data = {
        "study": {"name": f"{key}-{run}", "purpose": "benchmark", "task": task, "classes": tuple(classes)},
        "images": setting.images,
        "model": setting.model,
        "training": setting.training,
        "hospitals": {"members": MEMBERS},
    }
    if setting.augmentation is not None:
        data["augmentation"] = setting.augmentation
    if setting.privacy is not None:
        data["privacy"] = {"evaluation_share": 0.0, "looks": 0, **setting.privacy}
    return resolve(Study.model_validate(data))


@dataclass(frozen=True)
class Result:
    """What came out: the figure of each run, the same for one hospital that has everything, and the last weights."""

    plan: Plan
    weights: Weights
    figures: tuple[float, ...]
    pooled: tuple[float, ...]
    seconds: float

    @property
    def mean(self) -> float:
        """Over the runs."""
        return float(np.mean(self.figures))

    @property
    def gap(self) -> float:
        """Between three hospitals and one, of the means."""
        return abs(self.mean - float(np.mean(self.pooled))) if self.pooled else 0.0


def measure(key: str, setting: Setting, source: Source, runs: int, progress: Callable[[str], None]) -> Result:
    """Train and test, `runs` times."""
    began, figures, pooled = time.monotonic(), [], []
    for run in range(runs):
        plan = Plan(study_of(key, setting, source.test.classes, run))
        plan.check()
        units = source.units if setting.privacy else source.images
        seen, parts = plan.front_end.features(source.test.images), [cohort(plan, one) for one in source.hospitals]

        def figure(weights: Weights, plan: Plan = plan, seen: Tensor = seen) -> float:
            if source.test.grids:
                return of_wholes(plan, weights, source.test)
            return simulation.quality(plan, weights, seen, source.test.labels, source.test.patients).accuracy

        weights = simulation.train(plan, parts, units, lambda done: progress(f"{key}: round {done}"))
        figures.append(figure(weights))
        if setting.pooled:
            every = simulation.train(plan, [whole(parts)], units, lambda done: progress(f"{key}, pooled: round {done}"))
            pooled.append(figure(every))
    return Result(plan, weights, tuple(figures), tuple(pooled), time.monotonic() - began)


def of_wholes(plan: Plan, weights: Weights, test: Dataset) -> float:
    """Mean Dice of whole volumes, blended from their patches."""
    module = plan.module()
    write_weights(module, weights)
    whole = whole_masks(test, lambda images: outputs_of(module, plan.front_end.features(images)))
    figures = mask_figures(whole.found, whole.truth, test.classes, whole.patients, whole.files, whole.spacing)
    return float(figures["dice"])


def cohort(plan: Plan, data: Dataset) -> Cohort:
    """A hospital's images as the learned module sees them."""
    return Cohort(plan.front_end.features(data.images), data.labels, data.patients)


def whole(parts: Sequence[Cohort]) -> Cohort:
    """One hospital that holds everything."""
    return Cohort(
        torch.cat([one.features for one in parts]),
        torch.cat([one.labels for one in parts]),
        tuple(who for one in parts for who in one.patients),
    )


def mask_difference(result: Result, images: Tensor) -> float:
    """The largest share of pixels that the encrypted mask of an image has otherwise than the mask in clear."""
    plan, module = result.plan, result.plan.module()
    write_weights(module, result.weights)
    card = Card(
        task="segmentation",
        classes=plan.study.study.classes,
        front_end=plan.front_end_card,
        learned=plan.learned,
        preparation=Preparation(**plan.study.images.model_dump()).to_card(),
        privacy={},
        trained={},
    )
    model = TrainedModel(card, plan.front_end, module.eval().requires_grad_(False))
    clear = model.logits(images).argmax(1).numpy()
    with roles(deployable_model(model)) as (public, _):
        found = [one.mask for one in diagnose(images, public)]
    return max(
        float((mask != expected).mean()) for mask, expected in zip(found, clear, strict=True) if mask is not None
    )


def main() -> None:
    """Print a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--runs", type=int, help="of each line, instead of its own number")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    results: dict[str, Result] = {}
    told: dict[str, float] = {}
    with console.status("...") as status:
        for key in arguments.only:
            setting = SETTINGS[key]
            source = source_of(setting)
            results[key] = measure(key, setting, source, arguments.runs or setting.runs, status.update)
            told[key] = round(results[key].mean, 4)
            console.print(f"{key}: {told[key]} ({results[key].seconds:.0f} s)")
            if key == "lungs_dice":
                told["mask_difference"] = round(mask_difference(results[key], source.test.images[:10]), 5)
    gaps = [result.gap for result in results.values() if result.pooled]
    if gaps:
        told["federated_gap"] = round(max(gaps), 4)
    console.print(table(results))
    print(json.dumps(told))


def table(results: dict[str, Result]) -> Table:
    """For people."""
    drawn = Table(title="three hospitals; Dice a test patient, for digits accuracy", title_justify="left")
    for heading in ("key", "weights", "epsilon", "noise", "rounds", "figure", "bar", "one hospital", "s"):
        drawn.add_column(heading, justify="left" if heading == "key" else "right", no_wrap=heading == "key")
    for key, result in results.items():
        study, privacy = result.plan.study, result.plan.study.privacy
        drawn.add_row(
            key,
            f"{result.plan.dimension:,}",
            f"{privacy.epsilon:g}" if privacy else "-",
            f"{privacy.noise_multiplier:.2f}" if privacy else "-",
            str(study.training.rounds),
            " ".join(f"{value:.4f}" for value in result.figures),
            f"{SETTINGS[key].bar:g}",
            " ".join(f"{value:.4f}" for value in result.pooled) or "-",
            f"{result.seconds:.0f}",
        )
    return drawn


if __name__ == "__main__":
    main()
