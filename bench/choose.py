"""How the settings of the chest X-rays in `bench/accuracy.py` were chosen: on training patients alone. `scripts/bench choose`.

Cross-validation over six parts of the training patients, some times over. Each candidate is tried with the noise of the
whole set, on the validation pictures as they are and on the same ones changed as another camera might: zoomed by up to
18 %, turned, shifted, half of them blurred, with another gamma. The mean of both AUCs says which is best; the last line
holds it for each candidate. Not private, and not paid for by epsilon: in a study it would be done on public pictures.

What is learned is linear in fixed features x and every step is a sum of them and noise, so that all that is ever needed
is the score <w, x> of each picture: with K the pictures' Gram matrix and K = L L^T, a step on coefficients c with noise
z moves the scores by K c + s L z, which is how they would move in as many dimensions as the features have. A hundred
trainings take seconds. Noise is floating-point, of a public stream, and the same for all candidates.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from bench.accuracy import DATA, SETTINGS, Setting, Source, chest, study
from primum.clipping.factors import MARGIN
from primum.dp.sampling import group_by, some_of
from primum.rng import Stream, normal_for_pictures
from primum.tasks import metrics
from primum.tasks.plan import Plan

PARTS = 6
Reals = npt.NDArray[np.float64]


def candidates(epsilon: float) -> list[Setting]:
    """The setting in use, and its neighbours."""
    used = next(one for one in SETTINGS.values() if one.data == "chest" and one.epsilon == epsilon)
    rounds, norm, rate = used.rounds, used.clipping_norm, used.learning_rate
    steps = [(1, 1, 2), (1, 1, 0.5), (1, 2, 1), (1, 2, 0.5), (1, 0.5, 2), (0.5, 1, 2), (0.5, 1, 1), (2, 1, 0.5)]
    others = [
        replace(used, rounds=round(rounds * t), clipping_norm=norm * c, learning_rate=rate * r) for t, c, r in steps
    ]
    ends = [replace(used, scales=scales, views=views) for scales in ((2, 3), (2, 3, 4)) for views in ("zoom", "mirror")]
    return [used, *(one for one in (*ends, *others) if one != used)]


def changed(pictures: Tensor) -> Tensor:
    """The same pictures [n, 1, size, size] as another camera might have taken them; always the same."""
    stream, count = Stream.public("changed pictures"), len(pictures)

    def between(low: float, high: float) -> Tensor:
        return torch.from_numpy(low + (high - low) * stream.uniform(count)).float()

    high, wide, turn = between(0.82, 1.18), between(0.82, 1.18), between(-0.1, 0.1)
    down, right, gamma = between(-0.06, 0.06), between(-0.06, 0.06), between(-0.35, 0.35).exp()
    rows = (wide * turn.cos(), -high * turn.sin(), right), (wide * turn.sin(), high * turn.cos(), down)
    window = torch.stack([torch.stack(row, 1) for row in rows], 1)
    places = functional.affine_grid(window, list(pictures.shape), align_corners=False)
    seen = functional.grid_sample(pictures, places, padding_mode="border", align_corners=False)
    seen = seen.clamp(0, 1) ** gamma[:, None, None, None]
    blur = torch.tensor([0.25, 0.5, 0.25])
    soft = functional.conv2d(functional.pad(seen, (1, 1, 1, 1), mode="replicate"), (blur[:, None] * blur)[None, None])
    blurred = torch.from_numpy(stream.uniform(count) < 0.5)[:, None, None, None]
    return torch.where(blurred, soft, seen)


@dataclass(frozen=True)
class Pictures:
    """Gram matrix `products` [2n, 2n] of n pictures and of the same changed, its root, labels [n], patients' pictures."""

    products: Reals
    root: Reals
    labels: Reals
    patients: list[list[int]]

    @classmethod
    def of(cls, plan: Plan, source: Source) -> "Pictures":
        """Of a study's training patients."""
        images = source.train.images
        rows = torch.cat([plan.front_end.features(some) for some in (images, changed(images))])
        products = (rows @ rows.T).double().numpy()
        values, vectors = np.linalg.eigh(products)
        root = vectors * np.sqrt(values.clip(0))
        labels = source.train.labels.numpy().astype(np.float64)
        return cls(products, root, labels, group_by(source.train.patients))

    def scores(self, setting: Setting, noise: float, patients: Sequence[int], stream: Stream) -> Reals:
        """Of all pictures [2n], by the averaged weights; `noise` [units of a mean gradient] in each step."""
        lists, count = [self.patients[patient] for patient in patients], len(self.labels)
        now, mean, averaged = np.zeros(2 * count), np.zeros(2 * count), 0
        for done in range(setting.rounds):
            chosen = [some_of(own, setting.images_a_patient, stream) for own in lists]
            slopes = 1 / (1 + np.exp(-now[:count])) - self.labels
            factors = np.zeros(2 * count)
            for own in chosen:
                part = slopes[own] / len(own)
                length = math.sqrt(max(1e-30, float(part @ self.products[np.ix_(own, own)] @ part)))
                factors[own] = part * min(1.0, setting.clipping_norm * (1 - MARGIN) / length)
            step = self.products @ factors / len(lists) + noise * (
                self.root @ normal_for_pictures(stream, (2 * count,))
            )
            now = now - setting.learning_rate * step
            if done >= setting.rounds - setting.rounds * setting.training().average_last:
                mean, averaged = mean + now, averaged + 1
        return mean / averaged

    def validated(self, setting: Setting, noise: float, repeats: int) -> Iterator[tuple[float, float]]:
        """AUC of each part's pictures, as they are and changed, by what was learned from the other parts."""
        count = len(self.patients)
        for repeat in range(repeats):
            order = Stream.public(f"parts {repeat}").permutation(count)
            for part in range(PARTS):
                kept = set(order[part::PARTS].tolist())
                rest = [patient for patient in range(count) if patient not in kept]
                scores = self.scores(setting, noise, rest, Stream.public(f"noise {repeat} {part}"))
                own = np.array([place for patient in kept for place in self.patients[patient]])
                truth = self.labels[own].astype(np.int64)
                yield metrics.auc(truth, scores[own]), metrics.auc(truth, scores[own + len(self.labels)])


def main() -> int:
    """Print the table and the line of JSON."""
    parser = argparse.ArgumentParser(prog="scripts/bench choose", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epsilon", type=float, default=3.0, choices=(1.0, 3.0, 8.0))
    parser.add_argument("--repeats", type=int, default=4, help="divisions into parts")
    arguments = parser.parse_args()
    if not DATA.is_dir():
        print(f"No images in {DATA}. Set PRIMUM_DATA to the folder that holds chest/.", file=sys.stderr)
        return 2
    source, pictures = chest(), dict[object, Pictures]()
    table, found = Table(title=f"cross-validation on training patients at epsilon {arguments.epsilon:g}"), {}
    for name in ("scales", "views", "rounds", "C", "rate", "AUC", "±", "changed", "±", "mean"):
        table.add_column(name, justify="left" if name == "views" else "right")
    for setting in track(candidates(arguments.epsilon), "settings", console=Console(stderr=True)):
        plan = Plan(study(setting, source))
        if plan.front_end_card not in pictures:
            pictures[plan.front_end_card] = Pictures.of(plan, source)
        noise = plan.training.restored_sigma(plan.hospitals) / source.units
        aucs = np.array(list(pictures[plan.front_end_card].validated(setting, noise, arguments.repeats)))
        row: list[Any] = ["+".join(map(str, setting.scales)), setting.views, setting.rounds]
        row += [f"{setting.clipping_norm:g}", f"{setting.learning_rate:g}"]
        found[" ".join(map(str, row))] = round(float(aucs.mean()), 4)
        for column in aucs.T:
            row += [f"{column.mean():.4f}", f"{column.std() / math.sqrt(len(column)):.4f}"]
        table.add_row(*map(str, row), f"{aucs.mean():.4f}")
    Console(width=120).print(table)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
