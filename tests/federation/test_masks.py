"""Hospitals with masks, in one process: from folders of pictures and masks to a model, a private look and exact figures."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from tests.federation.playing import SIDE, World, make_study

from primum.errors import Refused
from primum.federation.scoring import score_test
from primum.models.card import load_model
from primum.report.page import page
from primum.report.run import read_run
from primum.study import Study

PIXELS = {"kind": "pixel-linear", "scales": 1, "places": 2}
UNET = {"kind": "u-net", "widths": (4, 8)}


def write_masks(folder: Path, first: int, patients: int = 12) -> Path:
    """images/ beside masks/: a light disc on noise, one a patient."""
    y, x = np.mgrid[:SIDE, :SIDE]
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for number in range(first, first + patients):
        generator = np.random.default_rng(number)
        cy, cx, r = (*generator.uniform(5, 11, 2), generator.uniform(3, 5))
        mask = (y - cy) ** 2 + (x - cx) ** 2 < r**2
        pixels = 60 + 120 * mask + generator.uniform(0, 50, mask.shape)
        Pillow.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"p{number}_1.png")
        Pillow.fromarray((255 * mask).astype(np.uint8)).save(folder / "masks" / f"p{number}_1.png")
    return folder


@pytest.fixture
def masked(three: World) -> World:
    """Three hospitals whose folders hold masks."""
    for hospital in three.hospitals.values():
        for path in sorted((hospital.folder / "images").rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        write_masks(hospital.folder / "images", 100 * hospital.number)
        hospital.start()
    three.allow(tasks=["classification", "segmentation"], without_privacy=True)
    return three


def masks_study(world: World, model: dict[str, object], private: bool, **training: object) -> Study:
    plain = make_study(world.members, rounds=3 if private else 25, private=private, training=training)
    data = plain.model_dump(exclude_none=True)
    data["study"] |= {"task": "segmentation", "classes": ("background", "disc")}
    if not private:
        data["evaluation"] = {"share": 0.4}
    return Study.model_validate({**data, "model": model})


@pytest.mark.parametrize("model", [PIXELS, UNET], ids=["pixel-linear", "u-net"])
def test_three_hospitals_learn_masks(masked: World, tmp_path: Path, model: dict[str, object]) -> None:
    private = model == PIXELS
    training = {"clipping": "automatic", "learning_rate": 3.0} if private else {
        "optimiser": "adam", "learning_rate": 0.05, "clipping_norm": 1.0, "average_last": 0.1, "sampling": 1.0,
    }  # fmt: skip
    run = masked.train(masks_study(masked, model, private, **training))
    card = load_model(run.folder).card
    assert (card.task, card.classes) == ("segmentation", ("background", "disc"))
    assert card.learned.kind == ("linear" if private else "u-net")
    score_test(run.folder, write_masks(tmp_path / "test", 900, 8), r"^(p\d+)_")
    told = read_run(run.folder)
    assert told.summary.test is not None and told.summary.test.dice is not None
    assert told.summary.test.by_class["disc"].dice == pytest.approx(told.summary.test.dice)
    assert told.summary.test.surface_unit == "pixels" and told.summary.test.surface_of == "images"
    assert told.summary.test.by_class["disc"].surface_distance is not None
    if private:
        look = json.loads((run.folder / "summary.json").read_text())["hospitals_private"]
        assert look["too_few"] or 0 <= look["dice"] <= 1
    else:
        assert told.summary.test.dice > 0.6
        looked = told.summary.hospitals_private
        assert looked is not None and looked.dice is not None and looked.surface_unit == "pixels"
        assert looked.surface_distance is not None and looked.volume_error is not None
        assert "Border off" in page(told)


def test_a_hospital_without_masks_is_no_member_of_such_a_study(three: World) -> None:
    three.allow(tasks=["segmentation"])
    with pytest.raises(Refused):
        three.train(masks_study(three, PIXELS, True))
    assert any("images without masks" in line for hospital in three.hospitals.values() for line in hospital.said)


def test_a_policy_that_does_not_name_the_task_says_no(masked: World) -> None:
    masked.allow(tasks=["classification"])
    with pytest.raises(Refused, match="segmentation is not among"):
        masked.train(masks_study(masked, PIXELS, True))
