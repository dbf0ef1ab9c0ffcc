"""`primum inspect`, as its users run it."""

import json
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image as Pillow
from tests.command import run_command
from tests.federation.playing import make_study
from tests.imaging.samples import WHEEL, dicom, png, two_classes
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
    ended = CliRunner().invoke(command, [str(folder), *asked, "--html", str(tmp_path / "page.html")])
    assert "page.html is not written" in ended.stdout and not (tmp_path / "page.html").exists()
    ended = CliRunner().invoke(command, [str(two_classes(tmp_path / "one")), "--patient", "^.(0)"])
    assert "12 x its patient is in two classes" in ended.stdout and ended.exit_code


def test_a_name_that_would_move_the_cursor_is_told_without_doing_so(tmp_path: Path) -> None:
    folder = two_classes(tmp_path / "data")
    (folder / "A" / "x\x1b[31mred\nline.png").write_text("no picture")
    told = CliRunner().invoke(command, [str(folder), "--patient", r"^([a-z]+\d+)_"]).stdout
    assert r"x\x1b[31mred\nline.png" in told and "\x1b[31m" not in told


def test_the_size_of_pixels_in_the_table_the_json_and_on_the_page(tmp_path: Path) -> None:
    folder, page = two_classes(tmp_path / "data"), tmp_path / "page.html"
    arguments = [str(folder), "--patient", r"(\w+)_"]
    assert "mm of a pixel: no file says it" in CliRunner().invoke(command, arguments).output
    dicom(folder / "A" / "a40_0.dcm", PixelSpacing=[0.143, 0.15])
    ended = CliRunner().invoke(command, [*arguments, "--html", str(page)])
    for words in ("mm of a pixel, as the files say it", "pictures, row x column", "0.143 x 0.15", "not said"):
        assert words in ended.output
    assert ">0.143 x 0.15<" in page.read_text() and "Size of a pixel" in page.read_text()
    told = json.loads(CliRunner().invoke(command, [*arguments, "--json"]).output)["spacing"]
    size = [0.143, 0.15]
    assert told == {
        "not_said": 12,
        "pictures": {
            "files": 1,
            "axes": ["row", "column"],
            "smallest": size,
            "median": size,
            "largest": size,
            "different": 1,
            "sizes": [{"mm": size, "files": 1}],
        },
    }


def test_against_a_folder_that_has_some_of_it_and_one_that_has_none(tmp_path: Path) -> None:
    train, test, page = two_classes(tmp_path / "train"), tmp_path / "test", tmp_path / "page.html"
    for name in ("A", "B"):
        png(test / name / f"{name}1_1.png", f"another {name}")
    arguments = [str(train), "--patient", r"^(\w+?)_", "--against", str(test), "--size", "16"]
    ended = CliRunner().invoke(command, arguments)
    assert ended.exit_code == 0 and "2 images of 2 patients" in ended.output, "so few are enough there"
    told = json.loads(CliRunner().invoke(command, [*arguments, "--json"]).output)["against"]
    assert (told["same"], told["patients_in_both"], told["images"]) == ([], [], 2)
    with Pillow.open(train / "A" / "a03_0.png") as opened:
        opened.save(test / "A" / "a03_9.tiff")
    (test / "A" / "broken_1.png").write_text("no picture")
    ended = CliRunner().invoke(command, [*arguments, "--html", str(page)])
    for words in (
        "A/a03_0.png  =  A/a03_9.tiff",
        "here A/a03_0.png; there A/a03_9.tiff",
        "; 1 set aside",
        "tested on",
    ):
        assert words in ended.output, ended.output
    assert f"Also in {test}" in page.read_text() and stat.S_IMODE(page.stat().st_mode) == 0o600
    told = json.loads(CliRunner().invoke(command, [*arguments, "--json"]).output)
    assert told["against"]["same"] == [{"file": "A/a03_0.png", "other": "A/a03_9.tiff"}]
    assert told["against"]["patients_in_both"] == [{"files": ["A/a03_0.png"], "others": ["A/a03_9.tiff"]}]
    assert told["against"]["set_aside"] == 1 and told["images"] == 12
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", test)
    ended = CliRunner().invoke(command, [*arguments[:-3], packed, "--html", str(page), "--json"])
    assert json.loads(ended.output)["against"]["same"] == told["against"]["same"]
    assert page.read_text().count("<b>The same picture.</b>") == 1, "the archive stays unpacked for the page"


def test_against_itself_or_what_is_no_folder(tmp_path: Path) -> None:
    folder = two_classes(tmp_path / "data")
    for other, words in ((folder / ".", "is FOLDER itself"), (tmp_path / "gone", "does not exist")):
        ended = CliRunner().invoke(command, [str(folder), "--patient", r"(\w+)_", "--against", str(other)])
        assert isinstance(ended.exception, DataError) and words in ended.exception.message


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
