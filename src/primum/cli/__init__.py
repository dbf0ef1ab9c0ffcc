"""The command line: one file per verb; each parses, calls a function of the package, and prints.

Verbs are imported when they are asked for, so that `primum --help` answers at once.
"""

import sys
from importlib import import_module
from typing import Any, Final

import click

from primum import __version__
from primum.cli.output import print_error
from primum.errors import PrimumError

VERBS: Final = {
    "demo": "The whole way on this machine: train, diagnose, report.",
    "coordinator": "Data scientist's side: run the hub; `invite NAME` makes a join file for a hospital.",
    "node": "Data owner: join with your images, decide on each study.",
    "consent": "Data owner: studies that were put before this hospital; agree, decline, withdraw.",
    "record": "Data protection officer: one page on a study at this hospital.",
    "doctor": "Anybody: what stands between this computer and a federation, and what IT must allow.",
    "inspect": "Data owner: what a node would offer, and every file it cannot use.",
    "data": "Public data sets by name: list, get, unpack into folders that a node can read.",
    "pacs": "Data owner: images from a PACS into a folder, de-identified: receive (C-STORE) or pull (DICOMweb).",
    "new": "Data scientist: `new study` writes a commented study.toml.",
    "train": "Data scientist: train what study.toml says; --check only explains it.",
    "evaluate": "Data scientist: how good a finished model is at all hospitals; nothing is trained.",
    "status": "Data scientist: where runs stand, and who is waited for.",
    "stop": "Data scientist: stop a run; what is finished is kept.",
    "resume": "Data scientist: let a run go on that was stopped or has failed.",
    "journal": "Anybody with a journal: `show` it in plain words, `verify` that nothing was changed.",
    "secagg": "Data scientist: `secagg plan N` says what secure aggregation of N hospitals needs and costs.",
    "budget": "Anybody: what a study will cost each patient, and what a hospital has left (`--node`).",
    "state": "Anybody who runs a role: back up its state folder, and restore it.",
    "report": "The HTML report of a run.",
    "mpc": "Model owner: `mpc plan MODEL` says what an encrypted diagnosis by it costs.",
    "deploy": "Model owner: sealed files for a dealer and two servers.",
    "token": "Model owner: let somebody ask for a number of diagnoses.",
    "dealer": "Crypto provider: deal the randomness of encrypted diagnoses.",
    "serve": "One of the two servers of encrypted diagnoses.",
    "diagnose": "Clinician or patient: an encrypted diagnosis of an image.",
}


def find_verb(name: str) -> click.Command:
    """The command of one of the VERBS, imported now."""
    module: Any = import_module(f"primum.cli.{name}")
    command: click.Command = module.command
    return command


class _Verbs(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        return find_verb(name) if name in VERBS else None

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=_Verbs)
@click.version_option(__version__)
def _group() -> None:
    """Primum: hospitals learn together without showing anything; a diagnosis that no server can read.

    Exit codes: 0 well, 2 your input, 3 the other side, 4 refused, 5 this machine, 6 nobody answers, 130 interrupted
    (docs/reference/exit-codes.md). Each verb takes --json.
    """


def main() -> None:
    """Entry point of the `primum` command; a user's mistake ends in one or two lines and an exit code."""
    try:
        _group.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except (click.ClickException, PrimumError) as error:
        print_error(error, as_json="--json" in sys.argv)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        print("\nStopped.", file=sys.stderr)
        sys.exit(130)
