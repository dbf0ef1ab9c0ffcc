"""Masks learned window by window: small structures are found, patients stay units, and figures are of whole pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from tests.imaging.samples import KEY
from tests.tasks.studies import study

from primum.dp import histogram
from primum.dp.sampling import group_by
from primum.errors import DataError
from primum.federation.explain import explain
from primum.federation.node import Images, NodeSettings
from primum.federation.scoring import score_test
from primum.imaging import Dataset, PatientSource, Preparation, read_masked_folder
from primum.imaging.cover import Cover
from primum.imaging.geometry import place_mask
from primum.imaging.restore import restore_mask
from primum.models.card import Card, save_model
from primum.models.learned import write_weights
from primum.study import Study
from primum.tasks import simulation
from primum.tasks.learner import Cohort, Learner
from primum.tasks.look import outputs_of, patient_cells
from primum.tasks.masks import dice, masks_of
from primum.tasks.plan import Plan
from primum.tasks.segmentation import mask_figures
from primum.tasks.simulation import quality
from primum.tasks.windows import whole_masks

SIZE, SIDE = 16, 60
CUT = Preparation(SIZE, fit="windows")


def dotted(folder: Path, patients: int, first: int = 0) -> Path:
    """Pictures of 60 x 60 pixels with dark crosses of 5 pixels on noise, and where they are."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(first, first + patients):
        random = np.random.default_rng(number)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        for row, column in random.integers(1, SIDE - 1, (130, 2)):
            mask[row - 1 : row + 2, column] = mask[row, column - 1 : column + 2] = 1
        picture = np.clip(170 - 90 * mask + random.normal(0, 12, mask.shape), 0, 255)
        Pillow.fromarray(picture.astype(np.uint8)).save(folder / "images" / f"p{number}.png")
        Pillow.fromarray(mask).save(folder / "masks" / f"p{number}.png")
    return folder


def read(folder: Path, preparation: Preparation = CUT, fewest: int = 1) -> Dataset:
    patients = PatientSource(one_image_per_patient=True)
    return read_masked_folder(
        folder, preparation=preparation, patients=patients, pseudonym_key=KEY, fewest=fewest
    ).dataset


def asked(fit: str = "windows", private: bool = False, **training: Any) -> Study:
    plain = study(epsilon=8.0, patients=180, noise_multiplier=2.0).model_dump()
    return Study.model_validate(
        {key: value for key, value in plain.items() if value is not None and (private or key != "privacy")}
        | {
            "study": {**plain["study"], "task": "segmentation", "classes": ("background", "class 1")},
            "images": {"size": SIZE, "fit": fit},
            "model": {"kind": "u-net", "widths": (6,)},
            "training": plain["training"] | training,
        }
    )


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return read(dotted(tmp_path_factory.mktemp("windows") / "train", 6))


def test_what_a_square_loses_windows_find_and_the_report_says_so(training: Dataset, tmp_path: Path) -> None:
    network = {"optimiser": "adam", "learning_rate": 0.05, "average_last": 0.1}
    plan = Plan(asked(rounds=60, sampling=0.15, clipping_norm=1.0, **network))
    cohorts = simulation.deal(plan.front_end.features(training.images), training, 3, bytes(32))
    weights = simulation.train(plan, cohorts, len(training))
    module = plan.module()
    write_weights(module, weights)
    seen = read(dotted(tmp_path / "test", 3, first=100))
    whole = whole_masks(seen, lambda images: outputs_of(module, plan.front_end.features(images)))
    assert [tuple(mask.shape) for mask in whole.found] == [(SIDE, SIDE)] * 3 and len(whole.patients) == 3
    found = dice(whole.found, whole.truth, 2, [[0], [1], [2]]).mean()
    square = Preparation(SIZE).placement(SIDE, SIDE, None)
    perfect = [restore_mask(place_mask(mask.numpy(), square), SIDE, SIDE, square) for mask in whole.truth]
    lost = dice([torch.from_numpy(mask) for mask in perfect], whole.truth, 2, [[0], [1], [2]]).mean()
    assert lost < 0.5 < 0.9 < found  # `lost`: of a model of one square that makes no mistake
    card = Card(
        task="segmentation", classes=plan.study.study.classes, front_end=plan.front_end_card, learned=plan.learned,
        preparation=CUT.to_card(), privacy={}, trained={},
    )  # fmt: skip
    save_model(tmp_path / "run", module.state_dict(), card)
    (tmp_path / "run" / "summary.json").write_text("{}")
    score_test(tmp_path / "run", tmp_path / "test", None)
    told = json.loads((tmp_path / "run" / "summary.json").read_text())["test"]
    assert told["dice"] == pytest.approx(found) and told["images"] == told["patients"] == 3


def test_windows_of_a_patient_are_one_unit_and_cost_no_more_than_a_square(training: Dataset) -> None:
    plan, square = (Plan(asked(fit, private=True, sampling=1.0, images_a_patient=5)) for fit in ("windows", "squash"))
    assert plan.update.shape == square.update.shape and plan.largest_batch == square.largest_batch
    assert plan.epsilon_after(3) == square.epsilon_after(3) > 0
    cohort = Cohort(plan.front_end.features(training.images), training.labels, training.patients)
    learner = Learner(plan, cohort)
    assert learner.images == training.patient_count == 6 < len(training)
    assert all(len({cohort.patients[image] for image in unit}) == 1 for unit in cohort.groups("patient", 1))
    bound = 6 * plan.study.training.clipping_norm * (1 + 1e-6)
    assert 0 < np.linalg.norm(learner.gradient(plan.first_weights())) <= bound


def test_a_look_counts_each_pixel_once_and_each_patient_once(training: Dataset) -> None:
    """The truth is what the model says of whole pictures, so their Dice is 1; windows that overlap disagree with it."""
    plan = Plan(asked(private=True))
    weights = np.random.default_rng(2).normal(size=plan.dimension).astype(np.float32)
    module = plan.module()
    write_weights(module, weights)
    features = plan.front_end.features(training.images)
    whole = whole_masks(training, lambda images: outputs_of(module, plan.front_end.features(images)))
    cut = [Cover((SIDE, SIDE), (SIZE, SIZE)).cut(mask.numpy()[None])[0] for mask in whole.found]
    truth = torch.from_numpy(np.concatenate(cut))
    alone = dice(masks_of(outputs_of(module, features)), truth, 2, group_by(training.patients))
    assert 0.3 < alone.min() <= alone.max() < 0.93, "a window by itself says something else"
    cohort = Cohort(features, truth, training.patients, training.grids)
    rows, columns = patient_cells(plan, cohort, weights)
    assert rows.tolist() == [[0]] * 6 and columns.tolist() == [[plan.task.table[2] - 1]] * 6
    assert quality(plan, weights, features, truth, training.patients, training.grids).accuracy == 1
    one_less = Cohort(features[25:], truth[25:], training.patients[25:], training.grids[25:])
    counts = [histogram.counts(*patient_cells(plan, some, weights), plan.task.table) for some in (cohort, one_less)]
    assert np.linalg.norm(counts[0].astype(float) - counts[1]) == 1, "what noise is made for"


def test_a_node_tells_its_looks_which_picture_a_window_is_of(tmp_path: Path) -> None:
    plan = Plan(asked(private=True))
    images = Images(dotted(tmp_path / "data", 6), NodeSettings(one_image_per_patient=True), KEY)
    cohorts = images.cohorts(plan, 0.5)
    for part in (cohorts.training, cohorts.evaluation):
        assert part.grids == ((SIDE, SIDE),) * len(part.patients)
        assert len(part.patients) == len(Cover((SIDE, SIDE), (SIZE, SIZE))) * len(set(part.patients)) > 0


def test_figures_of_windows_are_those_of_the_pictures(training: Dataset) -> None:
    """With outputs that are the truth: Dice 1 in pictures of different sizes; and a picture is never half there."""
    truth = iter(training.labels.split(25))
    whole = whole_masks(training, lambda images: next(truth)[:, None] * 2.0 - 1)
    assert "from windows of 16 pixels" in explain(asked())
    told = mask_figures(whole.found, whole.truth, training.classes, whole.patients, whole.files, whole.spacing)
    assert told["dice"] == 1 and told["by_class"]["class 1"]["surface_distance"] == 0 and told["images"] == 6
    with pytest.raises(DataError, match="windows of a picture are missing"):
        whole_masks(training.select(place > 0 for place in range(len(training))), lambda images: images)


def test_real_lungs_keep_their_resolution(real_data: Path | None, tmp_path: Path) -> None:
    if real_data is None:
        pytest.skip("real images: not found")
    source = real_data / "lungs_montgomery"
    names = sorted(path.name for path in (source / "images").iterdir())[:2]
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in names:
        stem = name.rsplit(".", 1)[0]
        mask = next(path for path in (source / "masks").iterdir() if path.name.rsplit(".", 1)[0] == stem)
        (tmp_path / "images" / name).symlink_to(source / "images" / name)
        (tmp_path / "masks" / mask.name).symlink_to(mask)
    data = read(tmp_path, Preparation(96, fit="windows"))
    truth = iter(data.labels.split(len(data) // 2))
    whole = whole_masks(data, lambda images: next(truth)[:, None] * 2.0 - 1)
    for found, name in zip(whole.found, names, strict=True):
        mask = next(path for path in (tmp_path / "masks").iterdir() if path.stem == name.rsplit(".", 1)[0])
        with Pillow.open(mask) as drawn:
            assert ((np.asarray(drawn) > 0) == (found.numpy() > 0)).all()
    assert 0.3 < (data.images.std() * 12) < 3  # as one picture: deviation about 1
