"""Masks learned in 3D: patches blended into volumes, patients as units, figures in mm, and masks on the volume's own grid."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from tests.imaging.samples import KEY
from tests.tasks.studies import study

from primum.clipping.validate import validate
from primum.diagnosis.clear import diagnose_in_clear
from primum.diagnosis.deployable import Description, open_model
from primum.diagnosis.results import write_results
from primum.diagnosis.sources import open_source
from primum.dp import histogram
from primum.errors import ModelError
from primum.federation.evidence import check_saved
from primum.federation.explain import explain
from primum.federation.scoring import score_test
from primum.imaging import Dataset, PatientSource, Preparation, read_masked_folder
from primum.models.card import Card, load_model, save_model
from primum.models.feature_map import PixelsCard
from primum.models.learned import read_weights, write_weights
from primum.rng import Stream
from primum.study import Augmentation, Study
from primum.tasks import simulation
from primum.tasks.augmentation import Augmenter
from primum.tasks.learner import Cohort, Learner
from primum.tasks.look import outputs_of, patient_cells
from primum.tasks.masks import dice
from primum.tasks.plan import Plan
from primum.tasks.selftest import self_test
from primum.tasks.windows import whole_masks

IMAGES = {"size": 16, "depth": 8, "fit": "patches", "spacing": (2.0, 1.0, 1.0)}
CUT = Preparation(**IMAGES)  # type: ignore[arg-type]
SHAPE = (20, 16, 12)  # columns, rows, slices of the files; 1.2 x 1 x 2 mm
AFFINE = np.diag([-1.2, -1.0, 2.0, 1.0])


def balls(folder: Path, patients: int, first: int = 0) -> Path:
    """Volumes with bright balls on noise, and where they are."""
    x, y, z = np.mgrid[tuple(slice(side) for side in SHAPE)]
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(first, first + patients):
        random = np.random.default_rng(number)
        i, j, k = random.uniform((6, 6, 4), (14, 10, 8))
        ball = (1.2 * (x - i)) ** 2 + (y - j) ** 2 + (2 * (z - k)) ** 2 < random.uniform(4, 6) ** 2
        values = 100 * ball + random.normal(0, 25, SHAPE)
        for name, what in (("images", values.astype(np.float32)), ("masks", ball.astype(np.uint8))):
            nibabel.Nifti1Image(what, AFFINE).to_filename(folder / name / f"p{number}.nii.gz")
    return folder


def read(folder: Path) -> Dataset:
    return read_masked_folder(
        folder, preparation=CUT, patients=PatientSource(one_image_per_patient=True), pseudonym_key=KEY, fewest=1
    ).dataset


def asked(private: bool = False, images: dict[str, Any] | None = None, **changes: Any) -> Study:
    plain = study(epsilon=8.0, patients=180, noise_multiplier=2.0, evaluation_noise_multiplier=2.0).model_dump()
    training = plain["training"] | changes.pop("training", {})
    return Study.model_validate(
        {key: value for key, value in plain.items() if value is not None and (private or key != "privacy")}
        | {
            "study": {**plain["study"], "task": "segmentation", "classes": ("background", "class 1")},
            "images": IMAGES | (images or {}),
            "model": {"kind": "u-net", "widths": (8, 16)},
            "training": training,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return read(balls(tmp_path_factory.mktemp("patches") / "train", 6))


def test_hospitals_learn_volumes_whose_figures_and_masks_are_of_the_whole(training: Dataset, tmp_path: Path) -> None:
    network = {"optimiser": "adam", "learning_rate": 0.06, "schedule": "cosine", "average_last": 0.1}
    plan = Plan(
        asked(training={"rounds": 50, "sampling": 0.25, "clipping": "automatic", "clipping_norm": 1.0, **network})
    )
    cohorts = simulation.deal(plan.front_end.features(training.images), training, 3, bytes(32))
    module = plan.module()
    write_weights(module, simulation.train(plan, cohorts, len(training)))
    seen = read(balls(tmp_path / "test", 2, first=100))
    whole = whole_masks(seen, lambda images: outputs_of(module, plan.front_end.features(images)))
    assert [tuple(mask.shape) for mask in whole.found] == [(12, 16, 24)] * 2
    found = dice(whole.found, whole.truth, 2, [[0], [1]]).mean()
    assert found > 0.8
    features = plan.front_end.features(seen.images)
    cohort = Cohort(features, seen.labels, seen.patients, seen.grids, seen.files, seen.spacing)
    counts = histogram.counts(*patient_cells(plan, cohort, read_weights(module)), plan.task.table)
    looked = plan.task.figures(counts, 0.0)
    assert looked["dice"] == pytest.approx(found, abs=1 / 512) and looked["surface_unit"] == "mm"
    run = tmp_path / "run"
    card = Card(
        task="segmentation", classes=plan.study.study.classes, front_end=plan.front_end_card, learned=plan.learned,
        preparation=CUT.to_card(), privacy={}, trained={},
    )  # fmt: skip
    save_model(run, module.state_dict(), card)
    assert check_saved(run, module) == 0
    (run / "summary.json").write_text("{}")
    score_test(run, tmp_path / "test", None)
    told = json.loads((run / "summary.json").read_text())["test"]
    assert told["dice"] == pytest.approx(found) and told["images"] == told["patients"] == 2
    assert told["surface_unit"] == "mm" and told["surface_of"] == "volumes"
    border = told["by_class"]["class 1"]["surface_distance"]
    assert 0 <= border < 2 and looked["surface_distance"] == pytest.approx(border, abs=0.1)
    check_masks_on_the_grid_of_the_file(run, tmp_path)
    with pytest.raises(ModelError, match="no convolution in 3D is computed under encryption"):
        open_model(run, Description())
    for changes in ({"front_end": PixelsCard(size=16, deviations=6.0)}, {"preparation": Preparation(16).to_card()}):
        with pytest.raises(ValueError, match=r"(?:patches|windows) go with pixels"):
            Card(**card.model_dump() | changes)  # type: ignore[arg-type]


def check_masks_on_the_grid_of_the_file(run: Path, folder: Path) -> None:
    model, path = load_model(run), folder / "test" / "images" / "p100.nii.gz"
    source = open_source(path, CUT, masks=True)
    (told,) = diagnose_in_clear(model, [source])
    assert told.mask is not None and told.mask.shape == (12, 16, 24) and told.bytes == 0
    written = write_results(source, told, model.card.model_dump(mode="json"), folder / "results")
    assert [one.name for one in written] == ["p100.overlay.png", "p100.mask.nii.gz"]
    drawn, truth = (nibabel.load(one) for one in (written[1], folder / "test" / "masks" / "p100.nii.gz"))
    assert drawn.shape == SHAPE and np.allclose(drawn.affine, AFFINE)
    ours, theirs = (np.asarray(one.dataobj) > 0 for one in (drawn, truth))
    assert 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) > 0.75


def test_a_drawn_patient_brings_a_patch_and_moves_a_sum_by_the_norm(training: Dataset) -> None:
    plan = Plan(
        asked(
            private=True, training={"sampling": 1.0, "images_a_patient": 2}, model={"kind": "u-net", "widths": (4, 8)}
        )
    )
    cohort = Cohort(plan.front_end.features(training.images), training.labels, training.patients)
    learner = Learner(plan, cohort)
    assert learner.images == training.patient_count == 6 < len(training)
    bound = 6 * plan.study.training.clipping_norm * (1 + 1e-6)
    assert 0 < np.linalg.norm(learner.gradient(plan.first_weights())) <= bound
    assert self_test(plan, learner, cohort, Stream.from_os()) == ("clipping", "sampling", "noise")
    assert validate(plan.module(), torch.randn(3, *plan.front_end.shape)) == []
    assert plan.epsilon_after(3) > 0


def test_what_is_drawn_of_the_truth_is_the_truth(training: Dataset) -> None:
    pieces = iter(training.labels.split(len(training) // 6))
    whole = whole_masks(training, lambda images: next(pieces)[:, None] * 2.0 - 1)
    assert all(torch.equal(found, truth) for found, truth in zip(whole.found, whole.truth, strict=True))
    assert whole.spacing == ((2.0, 1.0, 1.0),) * 6
    told = explain(asked())
    assert "from patches of 8 x 16 x 16 voxels of 2 x 1 x 1 mm" in told and "draws in clear only" in told


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"images": {"spacing": None}}, r"images\.spacing is missing"),
        ({"images": {"spacing": (1.0, 0.0, 1.0)}}, "three: slice, row, column"),
        ({"images": {"fit": "windows", "depth": None}}, r"images\.spacing of three numbers"),
        ({"images": {"fit": "pad", "spacing": 1.0}}, r"images\.depth is of patches"),
        ({"images": {"axis": "coronal", "channels": 3}}, r"there is no images\.axis, images\.channels"),
        ({"model": {"kind": "seg-resnet"}}, "take u-net"),
        ({"model": {"kind": "pixel-linear"}}, "a patch does not know: take u-net"),
        ({"augmentation": {"elastic": 1.0}}, r"augmentation\.elastic does not go with"),
    ],
    ids=str,
)
def test_keys_that_contradict_patches_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        asked(**changes)


def test_a_patch_that_cannot_be_halved_is_refused_and_a_study_is_its_text() -> None:
    with pytest.raises(ModelError, match="images of 8 pixels a side cannot be halved 3 times"):
        _ = Plan(asked(model={"kind": "u-net", "widths": (2, 2, 2, 2)})).dimension
    assert Study.parse(asked().text(), "study.toml") == asked()


CHANGES = (
    {"rotation": 90}, {"scale": 0.4}, {"shear": 0.5}, {"shift": 0.3}, {"flip": "both"}, {"grid": 0.5},
    {"blur": 2.0}, {"gamma": 0.5}, {"contrast": 0.5}, {"noise": 0.3}, {"cutout": 0.4},
)  # fmt: skip


@pytest.mark.parametrize("settings", CHANGES, ids=str)
def test_a_mask_moves_with_its_patch(settings: dict[str, Any]) -> None:
    z, y, x = np.mgrid[:8, :16, :16]
    ball = torch.from_numpy((2 * (z - 4)) ** 2 + (y - 5) ** 2 + (x - 9) ** 2 < 16).to(torch.uint8)[None]
    masks = ball.repeat(4, 1, 1, 1)
    patches = 2.0 * masks[:, None] - 1 + 0.1 * torch.from_numpy(np.sin(z + y + x)).float()
    augmenter = Augmenter(Augmentation(share=1.0, **settings), (8, 16, 16), True, Stream.from_os())
    changed, moved = augmenter(patches, masks)
    assert changed.shape == patches.shape and moved.shape == masks.shape and moved.dtype == torch.uint8
    assert not torch.allclose(changed, patches, atol=1e-3)
    if set(settings) & {"rotation", "scale", "shear", "shift", "flip", "grid"}:
        assert not torch.equal(moved, masks)
        assert float(((changed[:, 0] > 0) == (moved > 0)).float().mean()) > 0.9
    else:
        assert torch.equal(moved, masks)
