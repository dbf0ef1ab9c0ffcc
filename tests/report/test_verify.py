"""A run's claims, computed again: they hold for a run as it is, and each change is found by the check of its name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.command import run_command
from tests.federation.playing import build, make_study, write_images
from tests.report.sample import write_run

from primum.federation.scoring import score_test
from primum.report.page import page
from primum.report.run import read_run
from primum.report.verify import verify_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run with the scientist's own test images."""
    folder = tmp_path_factory.mktemp("verify")
    world = build(folder, 3)
    world.allow(epsilon_cap=100.0)
    run = world.train(make_study(world.members, privacy={"epsilon": 16.0, "evaluation_noise_multiplier": 0.5}))
    score_test(run.folder, write_images(folder / "test", 9000, 40), r"^(p\d+)_")
    return run.folder


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_everything_holds_for_a_run_as_it_is(trained: Path) -> None:
    assert {check.name: check.holds for check in verify_run(trained)} == {
        "Signature": True,
        "Privacy": True,
        "Ledger": True,
        "Rounds": True,
        "Model": True,
        "Looks": True,
        "Looked at": None,
        "Figures": True,
    }


def edit(file: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return apply


def edit_lines(file: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / file
        lines = change([json.loads(line) for line in path.read_text().splitlines()])
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    return apply


def put(data: dict[str, Any], part: str, key: str, value: Any) -> dict[str, Any]:
    return {**data, part: {**data[part], key: value}}


def other_text(folder: Path) -> None:
    path = folder / "study.toml"
    path.write_text(path.read_text().replace("A study of the tests.", "Another purpose."))


def other_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


CHANGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "another text than was signed": ("Signature", other_text),
    "a smaller epsilon": ("Privacy", edit("summary.json", lambda data: put(data, "privacy", "epsilon", 0.1))),
    "fewer steps": ("Privacy", edit("summary.json", lambda data: put(data, "privacy", "steps", 1))),
    "a line of the ledger less": ("Ledger", edit_lines("ledger.jsonl", lambda lines: lines[1:])),
    "more noise in the ledger": (
        "Ledger",
        edit_lines("ledger.jsonl", lambda lines: [{**lines[0], "sigma": 99.0}, *lines[1:]]),
    ),
    "a round twice": ("Rounds", edit_lines("metrics.jsonl", lambda lines: [lines[0], *lines])),
    "a round of two hospitals": (
        "Rounds",
        edit_lines("metrics.jsonl", lambda lines: [{**line, "participants": 2} for line in lines]),
    ),
    "other weights": ("Model", other_weights),
    "a card with other classes": ("Model", edit("card.json", lambda card: {**card, "classes": ["a", "b"]})),
    "a smaller epsilon of those who are looked at": (
        "Looks",
        edit("summary.json", lambda data: put(data, "privacy", "evaluation_epsilon", 0.1)),
    ),
    "a better look": ("Looks", edit_lines("looks.jsonl", lambda lines: [put(lines[0], "figures", "auc", 0.999)])),
    "a better look in the report": (
        "Looks",
        edit("summary.json", lambda data: put(data, "hospitals_private", "auc", 0.999)),
    ),
    "a figure of a look without its table": (
        "Looks",
        edit_lines("looks.jsonl", lambda lines: [{**lines[0], "figures": {"auc": 0.999}}]),
    ),
    "a look with less noise": (
        "Looks",
        edit_lines("looks.jsonl", lambda lines: [put(lines[0], "figures", "noise", 0.1)]),
    ),
    "less noise for a look in the ledger": (
        "Ledger",
        edit_lines("ledger.jsonl", lambda lines: [*lines[:-1], {**lines[-1], "sigma": 99.0}]),
    ),
    **{
        f"a better {figure}": (
            "Figures",
            edit("summary.json", lambda data, figure=figure: put(data, "test", figure, 0.999)),
        )
        for figure in ("auc", "accuracy", "f1", "mcc", "brier", "calibration_error")
    },
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_is_found_by_its_check(copied: Path, change: str) -> None:
    name, apply = CHANGES[change]
    apply(copied)
    assert name in [check.name for check in verify_run(copied) if check.holds is False]


def test_the_command_names_what_does_not_hold(copied: Path) -> None:
    done = run_command("report", copied, "--verify")
    assert done.returncode == 0, done
    assert "Signature   holds: study.toml is the text that was signed" in done.stdout
    assert not (copied / "report.html").exists()
    other_weights(copied)
    done = run_command("report", copied, "--verify", "--json")
    assert done.returncode == 3
    assert [check["name"] for check in json.loads(done.stdout)["checks"] if check["holds"] is False] == ["Model"]
    assert "Not as the folder claims: Model." in done.stderr


def test_the_page_shows_the_evidence_and_what_hospitals_could_not_do(tmp_path: Path, trained: Path) -> None:
    shown = page(read_run(write_run(tmp_path / "run")))
    for words in ("3 of 3 hospitals", "41 sums", "What hospitals could not do", "&lt;b&gt;Its own log"):
        assert words in shown
    assert "3 of 3 hospitals" in page(read_run(trained))
