"""`primum inspect`, as its users run it."""

import json
import stat
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image as Pillow
from tests.command import run_command
from tests.federation.playing import make_study
from tests.imaging.samples import WHEEL, png, two_classes
from tests.imaging.test_patches import hospital
from tests.tasks.test_patches import asked

from primum.cli.inspect import command
from primum.errors import DataError, OtherClasses
from primum.study.kinds import KINDS


def _inspect(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_command("inspect", *map(str, arguments))


def test_what_a_node_would_offer_and_what_it_cannot_use(tmp_path: Path) -> None:
    folder = two_classes(tmp_path / "data")
    (folder / "A" / "a77_report.dcm").write_bytes((WHEEL / "reportsi.dcm").read_bytes())
    (folder / "B" / "[bold]b88_text.png").write_text("no picture")
    ended = _inspect(folder, "--patient", r"(\w+)_")
    assert ended.returncode == 0 and ended.stderr == ""
    for words in ("12 PNG", "2 set aside", "A/a77_report.dcm", "B/[bold]b88_text.png", "without pixels"):
        assert words in ended.stdout
    ended = _inspect(folder, "--patient", r"(\w+)_", "--json")
    told = json.loads(ended.stdout)
    assert told["classes"] == {"A": {"images": 6, "patients": 6}, "B": {"images": 6, "patients": 6}}
    assert {problem["file"] for problem in told["problems"]} == {"A/a77_report.dcm", "B/[bold]b88_text.png"}


def test_an_unusable_folder_ends_with_2_and_two_lines(tmp_path: Path) -> None:
    folder = two_classes(tmp_path / "data")
    for arguments in ((folder,), (tmp_path / "gone",), (folder, "--patient", "(")):
        ended = _inspect(*arguments)
        assert ended.returncode == 2 and ended.stdout == ""
        assert ended.stderr.startswith("Error: ") and len(ended.stderr.splitlines()) == 2
        assert "Traceback" not in ended.stderr


def test_a_page_for_this_hospital_alone(tmp_path: Path) -> None:
    folder, page = two_classes(tmp_path / "data"), tmp_path / "page.html"
    arguments = [str(folder), "--patient", r"(\w+)_", "--html"]
    ended = CliRunner().invoke(command, [*arguments, str(page)])
    assert ended.exit_code == 0 and str(page) in ended.output
    assert stat.S_IMODE(page.stat().st_mode) == 0o600 and "stays in this hospital" in page.read_text()
    ended = CliRunner().invoke(command, [*arguments, str(tmp_path / "gone" / "page.html"), "--json"])
    assert isinstance(ended.exception, DataError) and "Make it first" in str(ended.exception)


def test_images_with_several_classes_are_counted_in_each(tmp_path: Path) -> None:
    rows = ["1,1,0", "0,0,0", "0,1,0", "0,0,1", "1,0,0", "1,0,1"]
    for number, _ in enumerate(rows):
        png(tmp_path / "in" / f"p{number}_0.png")
    lines = "".join(f"p{number}_0.png,{row}\n" for number, row in enumerate(rows))
    (tmp_path / "in" / "labels.csv").write_text("file,Mass,Edema,Hernia\n" + lines)
    page, asked = tmp_path / "page.html", [str(tmp_path / "in"), "--patient", r"^(p\d+)_"]
    told = CliRunner().invoke(command, [*asked, "--json", "--html", str(page)])
    found = json.loads(told.stdout)
    assert (found["labels"], found["images"]) == ("several", 6)
    assert {name: one["images"] for name, one in found["classes"].items()} == {"Edema": 2, "Hernia": 2, "Mass": 3}
    assert "an image may be in several lines, or in none" in page.read_text()
    assert "any number of these classes, or none" in CliRunner().invoke(command, asked).stdout
    refused = CliRunner().invoke(command, [*asked, "--labels", "one"])
    assert isinstance(refused.exception, DataError) and "must have one column `label`" in refused.exception.message


def test_patches_of_a_study_are_counted_and_shown(tmp_path: Path) -> None:
    folder, study, page = hospital(tmp_path / "data"), tmp_path / "study.toml", tmp_path / "page.html"
    wanted = asked(images={"spacing": (3.0, 2.0, 1.5)})
    about = wanted.study.model_copy(update={"classes": ("background", "class 1", "class 2")})
    study.write_text(wanted.model_copy(update={"study": about}).text())
    arguments = [str(folder), "--patient", r"^(p\d+)", "--study", str(study)]
    ended = CliRunner().invoke(command, [*arguments, "--json", "--html", str(page)])
    told = json.loads(ended.output)
    assert told["notices"] == [f"6 volumes cut into {told['images']} patches of 8 x 16 x 16 voxels"]
    assert page.read_text().count('class="thumb"') == 6  # of each volume the patch where most is drawn
    ended = CliRunner().invoke(command, [*arguments, "--size", "32"])
    assert ended.exit_code == 2 and "--study says size, channels and labels" in ended.output


def test_a_folder_that_is_refused_says_which_files_were_set_aside_and_why(tmp_path: Path) -> None:
    folder = two_classes(tmp_path / "data", 2)
    (folder / "A" / "a77_0.png").write_text("no picture")
    masks = tmp_path / "masks"
    for number in range(4):
        png(masks / "images" / f"p{number}_0.png")
        png(masks / "masks" / f"p{number}_0.png")
    (tmp_path / "unknown").mkdir()
    (tmp_path / "unknown" / "labels.csv").write_text("file,label\nx.png,A\n")
    asked = ["--patient", r"^([a-z]+\d+)_"]
    ends = "at least 5 patients are needed", "can be used", "holds no images with a class"
    for where, file, end in zip(
        (folder, masks, tmp_path / "unknown"), ("A/a77_0.png", "p3_0.png", "x.png"), ends, strict=True
    ):
        ended = CliRunner().invoke(command, [str(where), *asked])
        assert "set aside" in ended.stdout and file in ended.stdout
        assert isinstance(ended.exception, DataError) and end in ended.exception.message
        told = json.loads(CliRunner().invoke(command, [str(where), *asked, "--json"]).stdout)
        assert file in told["problems"][-1]["file"] and told["problems"][-1]["reason"]
    ended = CliRunner().invoke(command, [str(two_classes(tmp_path / "one")), "--patient", "^.(0)"])
    assert "12 x its patient is in two classes" in ended.stdout and ended.exit_code


def test_colour_is_looked_at_in_colour_unless_grey_is_asked(tmp_path: Path) -> None:
    folder = two_classes(tmp_path / "data")
    with Pillow.open(folder / "A" / "a00_0.png") as grey:
        blank = Pillow.new("L", grey.size)
        Pillow.merge("RGB", (grey, blank, grey)).save(folder / "A" / "a00_0.png")
    asked = [str(folder), "--patient", r"(\w+)_", "--json"]
    for more, images in (([], 12), (["--channels", "1"], 11)):
        assert json.loads(CliRunner().invoke(command, [*asked, *more]).stdout)["images"] == images


@pytest.mark.parametrize(
    ("classes", "task", "words"),
    [
        (("cat", "dog"), "classification", "has no folder for class cat and none for class dog"),
        (("A", "B"), "segmentation", "holds images without masks"),
        (("A", "B"), "classification", ""),
    ],
)
def test_a_study_of_other_classes_or_another_task_is_refused(
    tmp_path: Path, classes: tuple[str, str], task: str, words: str
) -> None:
    study = make_study([b"\1" * 32], private=False)
    about = study.study.model_copy(update={"classes": classes, "task": task})
    model = {"model": KINDS["u-net"].model_validate({"kind": "u-net"})} if task == "segmentation" else {}
    (tmp_path / "study.toml").write_text(study.model_copy(update={"study": about, **model}).text())
    folder = two_classes(tmp_path / "data")
    ended = CliRunner().invoke(command, [str(folder), "--patient", r"(\w+)_", "--study", str(tmp_path / "study.toml")])
    if words:
        assert isinstance(ended.exception, OtherClasses) and words in ended.exception.message
    else:
        assert ended.exit_code == 0, ended.output
