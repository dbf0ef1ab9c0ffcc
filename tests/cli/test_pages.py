"""Each verb has --json, a page that is made from it, and exit codes that a page explains."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from tests.command import run_command

from primum import errors
from primum.cli import VERBS
from primum.cli.pages import FOLDER, commands, index, page
from primum.federation.aggregation import Halted
from primum.imaging import FolderError

ROOT = Path(__file__).resolve().parents[2]
EVERY = [pair for verb in VERBS for pair in commands(verb)]
RUNNABLE = [(name, made) for name, made in EVERY if not isinstance(made, click.Group) or made.invoke_without_command]


@pytest.mark.parametrize(("name", "command"), RUNNABLE, ids=lambda value: value if isinstance(value, str) else "")
def test_every_verb_takes_json(name: str, command: click.Command) -> None:
    assert any("--json" in option.opts for option in command.params)


@pytest.mark.parametrize("verb", ["index", *VERBS])
def test_the_pages_are_those_of_the_verbs(verb: str) -> None:
    text = index() if verb == "index" else page(verb)
    assert (ROOT / FOLDER / f"{verb}.md").read_text() == text, "run scripts/docs"


def test_no_page_is_of_a_verb_that_is_gone() -> None:
    assert {path.stem for path in (ROOT / FOLDER).glob("*.md")} == {"index", *VERBS}


def test_each_class_of_errors_is_explained_with_its_code() -> None:
    text = (ROOT / "docs/reference/exit-codes.md").read_text()
    classes = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.PrimumError)]
    for kind in (*classes, FolderError, Halted):
        assert f"| {kind.exit_code} | `{kind.__name__}` |" in text


def test_an_error_is_one_object_where_json_was_asked_for(tmp_path: Path) -> None:
    done = run_command("report", tmp_path / "nothing", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    told = json.loads(done.stderr)
    assert (told["error"], told["exit_code"]) == ("InputError", 2)
    assert "nothing is not the folder of a run" in told["message"]
    assert json.loads(run_command("stop", "--json").stderr)["exit_code"] == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("data", "list"),
        ("secagg", "plan", "3", "--colluding", "1"),
        ("new", "study", "OUT/study.toml"),
        ("consent", "key", "OUT/key.pem"),
    ],
    ids=" ".join,
)
def test_json_is_one_line_and_nothing_else(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = run_command(*(argument.replace("OUT", str(tmp_path)) for argument in arguments), "--json")
    assert done.returncode == 0, done
    [line] = done.stdout.splitlines()
    assert isinstance(json.loads(line), dict)


def test_a_port_that_is_none_is_refused_by_its_option() -> None:
    for verb, name in ((verb, name) for top in VERBS for name, verb in commands(top)):
        for option in verb.params:
            if option.name == "port":
                result = CliRunner().invoke(verb, [*_needed(verb), "--port", "65536"])
                assert result.exit_code == 2 and "--port" in result.output, name


def _needed(verb: click.Command) -> list[str]:
    return [word for one in verb.params if one.required for word in (one.opts[0], "x")]
