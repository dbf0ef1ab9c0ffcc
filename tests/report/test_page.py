"""The report: self-contained, complete, honest about what is missing, and safe against what stands in the files."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import confusion_matrix
from tests.command import run_command
from tests.report.sample import SUMMARY, write_run

from primum.errors import InputError
from primum.report import page, read_run, write_report

VOID = {"meta", "br", "link", "img", "hr", "input"}


class _Page(HTMLParser):
    """Checks that tags are balanced; keeps the text, the attributes and the names of the tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def _page(folder: Path) -> _Page:
    return _Page(page(read_run(folder)))


def test_everything_of_a_run_is_on_the_page(tmp_path: Path) -> None:
    text = _page(write_run(tmp_path / "run1")).text
    for words in (
        "pneumonia-2026", "Run run1", "These X-rays were drawn by a program", "Honest-but-curious server only",
        "0.974", "95 % interval 0.942 to 0.989", "92.0 %", "150 images of 138 patients", "2.98", "per patient",
        "the server together with 1 hospital", "ε = 4.87", "ε = 6.91", "65.4 kB", "132 kB", "masked updates", "6.8 MB",
        "8 of 8", "Too few patients for this epsilon", "ROC curve for PNEUMONIA", "Confusion matrix", "Coordinator",
        "Server A", "Dealer", "Clinician", "What is promised, and what is not", "no medical device", "clipping_norm = 0.25",
        "40 rounds. 1 attempt was thrown away", "Privacy spent after each round", "2.13.0", "training step",
    ):  # fmt: skip
        assert words in text, words


MASKS: dict[str, Any] = {
    "dice": 0.912, "dice_low": 0.9, "dice_high": 0.924, "images": 380, "patients": 10, "surface_unit": "mm",
    "surface_of": "volumes", "by_class": {
        "liver": {"dice": 0.95, "dice_low": 0.91, "dice_high": 0.97, "volume_error": 0.021, "surface_distance": 1.234, "hausdorff_95": 4.5, "one_sided": 0},
        "<b>": {"dice": 0.1, "volume_error": None, "surface_distance": None, "hausdorff_95": None, "one_sided": 2},
    },
}  # fmt: skip


def test_masks_are_told_with_the_distance_of_their_borders_and_its_unit(tmp_path: Path) -> None:
    text = _page(write_run(tmp_path / "mm", test=MASKS)).text
    assert "liver 0.950 (0.910 to 0.970) +2.1 1.23 4.50 0" in text and "95 % of it within, mm" in text
    assert "<b> 0.100 – – – 2" in text and "Volumes left out" in text
    assert "in mm, in 3D over each volume" in text
    images = {**MASKS, "surface_unit": "pixels", "surface_of": "images"}
    text = _page(write_run(tmp_path / "pixels", test=images)).text
    assert "Border off, pixels" in text and "not every test image says its mm" in text
    before = {key: value for key, value in MASKS.items() if not key.startswith("surface")}
    assert "Border" not in _page(write_run(tmp_path / "before", test={**before, "by_class": {}})).text


LOOKED: dict[str, Any] = {
    **MASKS, "volume_error": 0.05, "volume_error_low": -0.01, "volume_error_high": 0.11, "surface_distance": 1.5,
    "surface_distance_low": 1.2, "surface_distance_high": 1.8, "hausdorff_95": 5.25, "hausdorff_95_low": 4.0,
    "hausdorff_95_high": 6.5,
}  # fmt: skip


def test_masks_of_hospitals_are_told_with_volume_and_border(tmp_path: Path) -> None:
    text = _page(write_run(tmp_path / "run", test=MASKS, hospitals_private=LOOKED)).text
    assert "+5.0 % off 95 % interval -1.0 % to +11.0 %" in text.replace("\xa0", " ").replace("  ", " ")
    assert "Border off 1.50 mm 95 % interval 1.20 to 1.80" in text.replace("\xa0", " ").replace("  ", " ")
    assert "95 % of it within 5.25 mm" in text.replace("\xa0", " ")
    alone = {key: value for key, value in LOOKED.items() if not key.startswith(("volume", "surface", "hausdorff"))}
    text = _page(write_run(tmp_path / "dice", test=MASKS, hospitals_private=alone)).text
    assert "Border off 1." not in text.replace("\xa0", " ")


def test_points_that_a_study_chose_are_told(tmp_path: Path) -> None:
    sides = {"sensitivity": 0.81, "sensitivity_low": 0.7, "sensitivity_high": 0.9}
    sides |= {"specificity": 0.9, "specificity_low": 0.8, "specificity_high": 0.95}
    point = {"asked": "specificity", "at_least": 0.9, "threshold": 0.337, **sides}
    text = _page(write_run(tmp_path / "run", test={"auc": 0.9, "accuracy": 0.8, "points": [point]})).text
    assert "At 90.0 % specificity sensitivity 81.0 %" in text and "from a probability of 0.337 on" in text


def test_it_fetches_nothing_and_runs_nothing(tmp_path: Path) -> None:
    text = page(read_run(write_run(tmp_path / "run1")))
    found = _Page(text)
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(found.tags)
    assert not re.search(r"https?://|//[a-z]|url\((?!#)|@import", text)
    for name, value in found.attributes:
        assert name not in ("src", "href") and not name.startswith("on"), (name, value)
    assert "default-src 'none'" in text


def test_the_confusion_matrix_counts_the_predictions(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run1")
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    counts = confusion_matrix([row["label"] for row in rows], [row["probability"] > 0.5 for row in rows]).ravel()
    cells = re.findall(r"<td class=\"(?:hot)?\" style=\"--share:\d+%\"><b>(\d+)</b>", page(read_run(folder)))
    assert [int(cell) for cell in cells] == counts.tolist()


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("study.toml", "There is no study.toml"),
        ("metrics.jsonl", "There is no metrics.jsonl"),
        ("ledger.jsonl", "There is no ledger.jsonl"),
        ("card.json", "There is no card.json"),
        ("summary.json", "Assume no guarantee"),
        ("predictions.jsonl", "There is no predictions.jsonl"),
        ("diagnoses.jsonl", "nothing was diagnosed"),
    ],
)
def test_a_missing_part_is_left_out_with_a_sentence(tmp_path: Path, missing: str, sentence: str) -> None:
    folder = write_run(tmp_path / "run1")
    (folder / missing).unlink()
    assert sentence in _page(folder).text


def test_only_one_file_is_enough(tmp_path: Path) -> None:
    for name in ("metrics.jsonl", "summary.json"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text('{"round": 1}' if name == "metrics.jsonl" else "{}")
        assert "no figures on test images" in _page(folder).text


@pytest.mark.parametrize(
    ("file", "text", "named"),
    [
        ("summary.json", "{", "summary.json is damaged"),
        ("summary.json", "[1]", "no JSON object"),
        ("summary.json", '{"privacy": {"epsilon": "three"}}', "privacy.epsilon"),
        ("summary.json", '{"who_saw": [{"role": "x"}]}', "who_saw.0.sees"),
        ("metrics.jsonl", '{"round": 1}\n{"round"', "metrics.jsonl, line 2"),
        ("metrics.jsonl", '{"attempt": 1}', "metrics.jsonl, line 1: round"),
        ("predictions.jsonl", '{"label": -1, "probability": 0.5}', "predictions.jsonl, line 1: label"),
        ("diagnoses.jsonl", "null", "diagnoses.jsonl, line 1"),
        ("card.json", "not json", "card.json is damaged"),
        ("ledger.jsonl", "\x00", "ledger.jsonl, line 1"),
    ],
)
def test_a_damaged_file_is_named_and_nothing_is_written(tmp_path: Path, file: str, text: str, named: str) -> None:
    folder = write_run(tmp_path / "run1")
    (folder / file).write_text(text)
    with pytest.raises(InputError, match=re.escape(named)):
        write_report(folder)
    assert not list(folder.glob("*report*"))


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run1")
    (folder / "study.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"study\.toml is damaged"):
        write_report(folder)


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, words in {"gone": "not the folder of a run", "empty": "holds nothing of a run"}.items():
        with pytest.raises(InputError, match=words):
            write_report(tmp_path / name)


@pytest.mark.parametrize(
    ("changes", "there", "absent"),
    [
        ({"data": "real"}, "Honest-but-curious", "were drawn"),
        ({"pinned": True}, "were drawn", "Honest-but-curious"),
        ({"privacy": {**SUMMARY["privacy"], "epsilon": None}}, "No differential privacy", "clip + own noise"),
        ({"privacy": {**SUMMARY["privacy"], "epsilon": float("inf")}}, "no guarantee", "keeps the privacy stated"),
        ({"hospitals_private": {"auc": 0.95, "auc_low": 0.9, "auc_high": 0.99}}, "0.950", "Too few patients"),
        ({"hospitals_private": None}, "No private evaluation", "Too few patients"),
        ({"bytes": None}, "does not say what was sent", "masked updates"),
        ({"versions": {}}, "with which versions", "2.13.0"),
    ],
    ids=str,
)
def test_what_the_summary_says_changes_the_page(
    tmp_path: Path, changes: dict[str, Any], there: str, absent: str
) -> None:
    text = _page(write_run(tmp_path / "run1", **changes)).text
    assert there in text and absent not in text


def test_a_wrong_diagnosis_is_loud(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run1")
    with (folder / "diagnoses.jsonl").open("a") as file:
        file.write(json.dumps({"image": "x.png", "agrees": False}) + "\n")
    text = _page(folder).text
    assert "1 encrypted diagnoses differ from the plain model" in text and "8 of 9" in text


def test_what_stands_in_the_files_is_text_and_never_html(tmp_path: Path) -> None:
    evil = '<script>alert(1)</script>"><img src=x onerror=y>'
    folder = write_run(
        tmp_path / "run1",
        classes=[evil, "b"],
        versions={evil: evil},
        who_saw=[{"role": evil, "sees": evil, "stopped_by": evil}],
        hospitals_private={"too_few": True, "text": evil},
        privacy={**SUMMARY["privacy"], "unit": evil},
        bytes={"by_kind": {evil: 5}},
    )
    (folder / "study.toml").write_text(f"[study]\nname = '''{evil}'''\npurpose = '''{evil}'''\n")
    (folder / "card.json").write_text(json.dumps({evil: {evil: evil}, "trained": {"when": evil}}))
    (folder / "ledger.jsonl").write_text(json.dumps({evil: evil}))
    (folder / "diagnoses.jsonl").write_text(json.dumps({"image": evil}))
    found = _page(folder)
    assert "script" not in found.tags and "img" not in found.tags
    assert evil in "".join(found.words)


def test_more_classes_have_a_matrix_and_no_roc(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run1", classes=["a", "b", "c"])
    rows = [{"label": n % 3, "probability": [0.2, 0.5, 0.3]} for n in range(9)]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = _page(folder).text
    assert "Confusion matrix" in text and "ROC curve" not in text
    rows = [{"label": n % 3, "probability": 0.2, "predicted": 2} for n in range(9)]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cells = re.findall(r"--share:\d+%\"><b>(\d+)</b>", page(read_run(folder)))
    assert [int(cell) for cell in cells] == [0, 0, 3] * 3


@pytest.mark.parametrize("rounds", [1, 2, 300])
def test_any_number_of_rounds_can_be_drawn(tmp_path: Path, rounds: int) -> None:
    folder = write_run(tmp_path / "run1")
    lines = (
        json.dumps({"round": n + 1, "epsilon": 0.1 * n, "seconds": 0.0, "participants": n % 3}) for n in range(rounds)
    )
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    assert "nan" not in page(read_run(folder)).lower().split("</style>")[1].replace("nance", "")


def test_a_clipping_norm_that_follows_is_drawn_over_the_rounds(tmp_path: Path) -> None:
    folder, title = write_run(tmp_path / "run1"), "Clipping norm: the most one patient moves a round's sum"
    assert title not in _page(folder).text
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (folder / "metrics.jsonl").write_text(
        "\n".join(json.dumps(line | {"clipping_norm": 2.0 * 0.9**n}) for n, line in enumerate(lines))
    )
    assert title in _page(folder).text


def test_many_diagnoses_are_folded(tmp_path: Path) -> None:
    text = _page(write_run(tmp_path / "run1", diagnoses=230)).text
    assert "All 200 diagnoses" in text and "and 30 more in diagnoses.jsonl" in text and "230 of 230" in text


def test_the_command(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run1")
    ended = run_command("report", folder)
    assert ended.returncode == 0 and ended.stdout.strip() == str(folder / "report.html")
    assert _Page((folder / "report.html").read_text()).text
    ended = run_command("report", tmp_path)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr and "holds nothing of a run" in ended.stderr


def test_few_bits_say_what_they_cost_and_an_older_run_says_nothing_of_them(tmp_path: Path) -> None:
    update = {"local_steps": 1, "weighting": "equal", "bits": 8, "bytes": 4050, "extra_noise": 0.08}
    text = _page(write_run(tmp_path / "few", update=update | {"clamp": 1.9, "clamp_typical": 2.31})).text
    for words in (
        "Bits a coordinate 8",
        "One update 4.0 kB",
        "8.0 % above what is accounted for",
        "1.90 clipping norms, 2.3 times",
    ):
        assert words in text
    assert "cut at" not in _page(write_run(tmp_path / "all", update=update)).text
    assert "Bits a coordinate" not in _page(write_run(tmp_path / "old")).text


def test_local_steps_and_weights_by_images_are_told(tmp_path: Path) -> None:
    privacy = SUMMARY["privacy"] | {"local_steps": 5, "steps": 200}
    text = _page(write_run(tmp_path / "local", privacy=privacy)).text
    assert "Local steps a round 5, each with the hospital's own full noise, whoever colludes" in text
    assert "Local steps" not in _page(write_run(tmp_path / "one", privacy=SUMMARY["privacy"] | {"local_steps": 1})).text
    text = _page(write_run(tmp_path / "weights", update={"weighting": "images"})).text
    assert "two rounds whose sets differ by one hospital reveal its number" in text
