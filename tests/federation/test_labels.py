"""Hospitals whose images have several classes, or grades: from labels.csv to a model, a private look, a report, a record."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from tests.federation.playing import SIDE, World, make_study

from primum.errors import Refused
from primum.federation.evaluation import finished_weights
from primum.federation.runs import Run
from primum.federation.scoring import score_test
from primum.models.card import load_model
from primum.report.page import page
from primum.report.run import read_run
from primum.rng import Stream
from primum.study import Study

SIDES = ("left", "right", "top")
GRADES = ("0", "1", "2")


def write_images(folder: Path, labels: str, first: int, patients: int = 12) -> Path:
    """A light spot for each class that a picture has; of grades one that is the wider the higher it is."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["file,left,right,top" if labels == "several" else "file,label"]
    for number in range(first, first + patients):
        pixels = 60 + 60 * np.asarray(Stream.public(f"picture {number}").uniform((SIDE, SIDE)))
        ones = [number % 2, number // 2 % 2, number // 4 % 2]
        if labels == "several":
            for place, one in zip(((8, 1), (8, 10), (1, 5)), ones, strict=True):
                pixels[place[0] : place[0] + 6, place[1] : place[1] + 5] += 100 * one
        else:
            pixels[4:12, 1 : 1 + 6 * (number % 3)] += 100
        Pillow.fromarray(pixels.astype(np.uint8)).save(folder / f"p{number}_1.png")
        told = ",".join(map(str, ones)) if labels == "several" else str(number % 3)
        lines.append(f"p{number}_1.png,{told}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def labelled(world: World, labels: str) -> World:
    """The same hospitals with other pictures."""
    for hospital in world.hospitals.values():
        for path in sorted((hospital.folder / "images").rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        write_images(hospital.folder / "images", labels, 100 * hospital.number)
        hospital.start()
    world.allow(without_privacy=True, epsilon_cap=50.0)
    return world


def study_of(world: World, labels: str, private: bool) -> Study:
    training = {"learning_rate": 20.0 if labels == "several" else 10.0, "sampling": 1.0, "clipping_norm": 0.25}
    plain = make_study(world.members, rounds=1 if private else 20, private=private, training=training)
    data = plain.model_dump(exclude_none=True)
    data["study"] |= {"labels": labels, "classes": SIDES if labels == "several" else GRADES}
    data["evaluation"] = {"share": 0.3} if not private else None
    return Study.model_validate({name: part for name, part in data.items() if part is not None})


def told_of(run: Run, labels: str, test: Path) -> tuple[dict[str, object], str]:
    score_test(run.folder, write_images(test, labels, 900, 24), r"^(p\d+)_")
    summary = json.loads((run.folder / "summary.json").read_text())
    return summary, page(read_run(run.folder))


def test_several_classes_from_folder_to_report(three: World, tmp_path: Path) -> None:
    world = labelled(three, "several")
    study = study_of(world, "several", private=False)
    run = world.train(study)
    model = load_model(run.folder)
    assert (model.card.labels, model.card.classes) == ("several", SIDES)
    assert finished_weights(run.folder, study)
    summary, html = told_of(run, "several", tmp_path / "test")
    test = summary["test"]
    assert isinstance(test, dict) and test["auc"] > 0.9 and set(test["by_class"]) == set(SIDES)
    lines = [json.loads(line) for line in (run.folder / "predictions.jsonl").read_text().splitlines()]
    assert any(sum(line["probability"]) > 1.5 for line in lines) and lines[3]["label"] == [1, 1, 1]
    look = summary["hospitals_private"]
    assert isinstance(look, dict) and np.array(look["counts"]).shape == (3, 2, 64)
    assert np.array(look["counts"]).sum((1, 2)).tolist() == [np.array(look["counts"])[0].sum()] * 3
    assert "AUC, mean over classes" in html and html.count("ROC curve for") == 2 * len(SIDES)
    assert "Confusion matrix" not in html


def test_grades_from_folder_to_report(three: World, tmp_path: Path) -> None:
    world = labelled(three, "ordered")
    run = world.train(study_of(world, "ordered", private=False))
    assert load_model(run.folder).card.labels == "ordered"
    summary, html = told_of(run, "ordered", tmp_path / "test")
    test, look = summary["test"], summary["hospitals_private"]
    assert isinstance(test, dict) and test["kappa"] > 0.3 and test["mae"] < 0.6
    assert isinstance(look, dict) and np.array(look["counts"]).shape == (3, 3)
    assert "the grade that was called against the true one" in html and "Kappa, quadratic weights" in html


def test_with_privacy_several_classes_are_looked_at_too(three: World) -> None:
    run = labelled(three, "several").train(study_of(three, "several", private=True))
    look = json.loads((run.folder / "summary.json").read_text())["hospitals_private"]
    assert look["too_few"] or 0 <= look["accuracy"] <= 1
    assert load_model(run.folder).card.privacy["epsilon"] is not None


def test_a_hospital_whose_images_have_one_class_is_no_member_of_such_a_study(three: World) -> None:
    three.allow(without_privacy=True)
    with pytest.raises(Refused):
        three.train(study_of(three, "several", private=False))
    assert any(
        "in class folders an image has one class" in line for one in three.hospitals.values() for line in one.said
    )
