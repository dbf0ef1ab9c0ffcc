"""`primum diagnose --model`: in clear, where model and image are; of pictures, and of volumes in 3D."""

import json
from pathlib import Path

import highdicom as hd
import nibabel
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pydicom import dcmread
from tests.diagnosis.conftest import make_model
from tests.imaging.result_samples import enhanced
from tests.imaging.samples import png
from tests.tasks.test_patches import CUT, asked, balls

from primum.cli.diagnose import command
from primum.imaging import read_image
from primum.imaging.prepare import Preparation
from primum.models.card import Card, save_model
from primum.tasks.plan import Plan


def test_a_picture_has_the_probabilities_of_its_model(tmp_path: Path) -> None:
    model, image = make_model(tmp_path / "run"), png(tmp_path / "p.png", "a picture")
    ended = CliRunner().invoke(command, [str(image), "--model", str(tmp_path / "run"), "--json"])
    (told,) = json.loads(ended.output)
    pixels = read_image(image, Preparation.from_card(model.card.preparation)).pixels
    expected = model.probabilities(torch.from_numpy(pixels)[None])[0].tolist()
    assert list(told["probabilities"].values()) == pytest.approx(expected) and told["bytes"] == 0
    assert told["diagnosis"] == ("NORMAL", "PNEUMONIA")[expected[1] > expected[0]]


def test_that_one_frame_of_a_film_is_looked_at_is_said(tmp_path: Path) -> None:
    make_model(tmp_path / "run")
    film = enhanced(tmp_path / "film.dcm", np.eye(3), 8)
    ended = CliRunner().invoke(command, [str(film), "--model", str(tmp_path / "run"), "--json"])
    assert "film.dcm: first of 8 frames" in ended.stderr and len(json.loads(ended.stdout)) == 1


def test_a_volume_has_its_mask_and_neither_way_goes_with_the_other(tmp_path: Path) -> None:
    plan = Plan(asked(model={"kind": "u-net", "widths": (2, 2)}))
    module = plan.module()
    card = Card(
        task="segmentation", classes=plan.study.study.classes, front_end=plan.front_end_card, learned=plan.learned,
        preparation=CUT.to_card(), privacy={}, trained={},
    )  # fmt: skip
    save_model(tmp_path / "run", module.state_dict(), card)
    volume, out = balls(tmp_path / "data", 1) / "images" / "p0.nii.gz", tmp_path / "results"
    asked_for = [str(volume), "--model", str(tmp_path / "run")]
    ended = CliRunner().invoke(command, [*asked_for, "--out", str(out)])
    assert ended.exit_code == 0 and "in clear" in ended.output
    assert sorted(path.name for path in out.iterdir()) == ["p0.mask.nii.gz", "p0.overlay.png"]
    stack = enhanced(tmp_path / "stack.dcm", np.eye(3), 8)
    ended = CliRunner().invoke(command, [str(stack), *asked_for[1:], "--out", str(out)])
    assert ended.exit_code == 0, "all frames are one volume, as a node reads them"
    assert hd.seg.segread(out / "stack.seg.dcm").SegmentsOverlap == "NO"
    assert nibabel.load(out / "stack.mask.nii.gz").shape == (12, 10, 8)
    film = enhanced(tmp_path / "film.dcm", np.eye(3), 8)
    header = dcmread(film)
    del header.PerFrameFunctionalGroupsSequence, header.SharedFunctionalGroupsSequence
    header.save_as(film)
    ended = CliRunner().invoke(command, [str(film), *asked_for[1:], "--out", str(tmp_path / "of_film")])
    assert ended.exit_code != 0 and "film.dcm lacks ImagePositionPatient, which a volume needs" in str(ended.exception)
    assert not (tmp_path / "of_film").exists()
    for wrong, words in (
        (["--deployment", "public.json"], "not both"),
        (["--carry", "x"], "with them --out and --json"),
    ):
        ended = CliRunner().invoke(command, [*asked_for, *wrong])
        assert ended.exit_code == 2 and words in ended.output
    ended = CliRunner().invoke(command, [str(volume)])
    assert ended.exit_code == 2 and "Give --deployment, or --model" in ended.output
