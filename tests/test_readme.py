"""Every command of the README exists, with the options that it shows; the demo's test runs the main block."""

import os
import re
import shlex
from pathlib import Path

import click
import pytest

from primum.cli import VERBS, _group

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text()
COMMANDS = sorted(
    {
        " ".join(found.split())
        for found in [
            *re.findall(r"`(primum [^`]+)`", README),
            *re.findall(r"^    (primum [^#\n]+)", README, flags=re.MULTILINE),
        ]
        if not re.match(r"primum\.", found)
    }
)


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 12


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_readme_exists_with_its_options(line: str) -> None:
    words = shlex.split(re.split(r"\s[>|]", line)[0])[1:]
    command: click.Command = _group
    context = click.Context(_group)
    while isinstance(command, click.Group) and words:
        step = command.get_command(context, words[0])
        if step is None:
            break
        command, words = step, words[1:]
    assert command is not _group, f"{line}: there is no such verb"
    options = {name: option for option in command.params if isinstance(option, click.Option) for name in option.opts}
    arguments = [part for part in command.params if isinstance(part, click.Argument)]
    given = 0
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            assert word in options, f"{line}: {word}"
            if not options[word].is_flag:
                assert words, f"{line}: {word} wants a value"
                words.pop(0)
        else:
            given += 1
    assert given <= len(arguments) or any(argument.nargs == -1 for argument in arguments), line


@pytest.mark.parametrize("script", ["demo", "test"])
def test_the_two_scripts_exist_and_can_be_run(script: str) -> None:
    assert f"    scripts/{script} " in README
    assert os.access(REPOSITORY / "scripts" / script, os.X_OK)


def test_the_pages_that_the_readme_links_to_exist() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        if not link.startswith("http"):
            assert (REPOSITORY / link).exists(), link


def test_every_verb_can_be_imported_and_has_a_help() -> None:
    for name in VERBS:
        command = _group.get_command(click.Context(_group), name)
        assert command is not None
        assert command.help
