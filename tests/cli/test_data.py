"""`primum data`, as its users run it."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from primum.cli.data import command
from primum.errors import PrimumError


def _data(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_the_list_names_sizes_and_licences() -> None:
    ended = _data("list")
    assert ended.exit_code == 0
    for words in ("pneumoniamnist", "28, 64, 128, 224", "msd-liver", "mnist", "CC BY-NC 4.0"):
        assert words in ended.output


def test_get_checks_what_is_there(real_data: Path | None) -> None:
    if real_data is None:
        return
    ended = _data("get", "pneumoniamnist", "--to", real_data)
    assert ended.exit_code == 0 and "as published" in ended.output and "Yang et al." in ended.output


def test_unpack_deals_to_hospitals(real_data: Path | None, tmp_path: Path) -> None:
    if real_data is None:
        return
    out = tmp_path / "out"
    ended = _data("unpack", "breastmnist", "--from", real_data, "--to", out, "--hospitals", 3, "--by", "label")
    assert ended.exit_code == 0 and f"{out / 'test'}  156" in ended.output
    assert {path.name for path in out.iterdir()} == {"hospital-1", "hospital-2", "hospital-3", "val", "test"}
    assert (out / "hospital-2" / "labels.csv").read_text().startswith("file,label,patient\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("get", "nothing-at-all"), "no data set"),
        (("get", "pneumoniamnist", "--size", 99), "99 pixels"),
        (("unpack", "mnist", "--to", "out"), "primum data get mnist"),
        (("unpack", "pneumoniamnist", "--to", "out", "--by", "label"), "skewed"),
    ],
)
def test_mistakes_end_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = _data(*arguments)
    assert isinstance(ended.exception, PrimumError) and words in str(ended.exception)
    assert not list(tmp_path.iterdir())
