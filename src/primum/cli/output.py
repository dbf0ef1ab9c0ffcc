"""What a verb prints: words for people, or with --json one object on one line of standard output and nothing else there."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from primum.errors import PrimumError


def print_json(data: dict[str, Any]) -> None:
    """`data` on one line."""
    click.echo(json.dumps(data, ensure_ascii=False))


def sayer(as_json: bool, words: Callable[[str], None] = click.echo) -> Callable[[str], None]:
    """What a verb that runs for long says each line with: `words`, or with --json {"at": ..., "said": ...}."""
    return (lambda text: print_json({"at": round(time.time(), 3), "said": text})) if as_json else words


def told(as_json: bool, data: dict[str, Any], *words: str) -> None:
    """The result of a verb that ends: the data, or the words."""
    if as_json:
        print_json(data)
        return
    for line in words:
        click.echo(line)


def print_error(error: PrimumError | click.ClickException, as_json: bool) -> None:
    """On standard error: one or two lines, or one object."""
    if not as_json:
        _print_words(error)
        return
    message, hint = (error.message, error.hint) if isinstance(error, PrimumError) else (error.format_message(), "")
    data = {"error": type(error).__name__, "message": message, "hint": hint, "exit_code": error.exit_code}
    print(json.dumps(data, ensure_ascii=False), file=sys.stderr)


def _print_words(error: PrimumError | click.ClickException) -> None:
    if isinstance(error, click.ClickException):
        error.show()
        return
    print(f"Error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"       {error.hint}", file=sys.stderr)
