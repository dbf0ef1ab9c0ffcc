"""`primum consent`: studies that were put before a hospital, and the answers of its people."""

import datetime
from pathlib import Path
from typing import Any

import click

from primum.cli import options

_KEY = click.option(
    "--key", type=click.Path(path_type=Path), help="Your signer's key, where policy.toml names signers."
)


@click.group()
def command() -> None:
    """Data owner: see the studies that were put before this hospital; agree, decline, withdraw.

    STUDY is what `primum consent list` shows first: the beginning of the study's digest, or its name. A yes or a no
    holds for the study as it was signed: another text is another study.
    """


@command.command(name="list")
@options.node_state
@options.as_json
def list_(state: Path, as_json: bool) -> None:
    """All studies that were put before this hospital, and how things stand."""
    from primum.cli.output import print_json
    from primum.federation.desk import Desk

    found = Desk.open(state).cases()
    if as_json:
        print_json({"studies": [_as_data(case) for case in found]})
        return
    for case in found:
        until = f", until {_day(case.standing.until)[:10]}" if case.standing.until else ""
        words = f"{case.standing.answer} ({case.standing.words}{until})"
        click.echo(f"{case.digest[:12]}  {case.study.study.name}: {words}")
        click.echo(f"              {case.study.study.purpose}")
    if not found:
        click.echo("No study was put before this hospital yet.")


@command.command()
@click.argument("study")
@options.node_state
@options.as_json
def show(study: str, state: Path, as_json: bool) -> None:
    """What STUDY asks for, what it costs in privacy, and who answered what."""
    from primum.cli.output import print_json
    from primum.federation.desk import Desk

    case = Desk.open(state).find(study)
    if as_json:
        print_json(_as_data(case))
        return
    click.echo(f"Digest: {case.digest}")
    for name, words in case.described().items():
        click.echo(f"{name}: {words}")
    for answer in case.answers:
        click.echo(f"{_day(answer.at)}  {answer.answer} by {answer.who}, until {_day(answer.until)}")
    click.echo(f"Stands at: {case.standing.answer} ({case.standing.words})")


@command.command()
@click.argument("study")
@click.option("--until", metavar="DAY", help="How long the yes holds, as 2027-12-31.  [default: as long as the study]")
@_KEY
@options.node_state
@options.as_json
def yes(study: str, until: str | None, key: Path | None, state: Path, as_json: bool) -> None:
    """Agree to STUDY."""
    _answer(study, "yes", until, key, state, as_json)


@command.command()
@click.argument("study")
@_KEY
@options.node_state
@options.as_json
def no(study: str, key: Path | None, state: Path, as_json: bool) -> None:
    """Decline STUDY."""
    _answer(study, "no", None, key, state, as_json)


@command.command()
@click.argument("study")
@_KEY
@options.node_state
@options.as_json
def withdraw(study: str, key: Path | None, state: Path, as_json: bool) -> None:
    """Withdraw from STUDY: from its next round on nothing is sent.

    What was in a sum before cannot be taken out again: `primum journal show` says which rounds that was.
    """
    _answer(study, "no", None, key, state, as_json)


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@options.as_json
def key(file: Path, as_json: bool) -> None:
    """Make a signer's key in FILE (keep it where only you can read it), or show the one that is there.

    What is printed goes into `signers` of the hospital's policy.toml.
    """
    from primum.cli.output import print_json
    from primum.keys.identity import Identity

    public = Identity.load_or_make(file).public.hex()
    if as_json:
        print_json({"signer": public})
        return
    click.echo(public)


def _answer(study: str, answer: str, until: str | None, key: Path | None, state: Path, as_json: bool) -> None:
    from primum.cli.output import print_json
    from primum.errors import InputError
    from primum.federation.desk import Desk

    try:
        day = datetime.date.fromisoformat(until) if until else None
    except ValueError:
        raise InputError(f"--until {until} is not a day.", "Write it as 2027-12-31.") from None
    desk = Desk.open(state)
    withdrawn = desk.find(study).withdrawn_by(answer)
    case = desk.answer(study, answer, day, key)
    if as_json:
        print_json(_as_data(case))
        return
    words = "withdrawn: nothing is sent from its next round on" if withdrawn else ""
    click.echo(f"{case.study.study.name}: {words or f'{case.standing.answer} ({case.standing.words})'}")


def _as_data(case: Any) -> dict[str, Any]:
    answers = [
        {"by": answer.who, "answer": answer.answer, "at": answer.at, "until": answer.until} for answer in case.answers
    ]
    return {
        "digest": case.digest,
        "name": case.study.study.name,
        "asker": case.asker,
        "at": case.at,
        "answer": case.standing.answer,
        "words": case.standing.words,
        "answers": answers,
    }


def _day(at: float) -> str:
    return datetime.datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M") if at else "-"
