"""The command line: one file per verb; each parses, calls a function of the package, and prints.

Verbs are imported when they are asked for, so that `primum --help` answers at once.
"""

import sys
from importlib import import_module
from typing import Any, Final

import click

from primum import __version__
from primum.errors import PrimumError

VERBS: Final = {
    "demo": "The whole way on this machine: train, diagnose, report.",
    "coordinator": "Data scientist's side: run the hub; `invite NAME` makes a join file for a hospital.",
    "node": "Data owner: join with your images, decide on each study.",
    "inspect": "Data owner: what a node would offer, and every file it cannot use.",
    "data": "Public data sets by name: list, get, unpack into folders that a node can read.",
    "pacs": "Data owner: images from a PACS into a folder, de-identified: receive (C-STORE) or pull (DICOMweb).",
    "new": "Data scientist: `new study` writes a commented study.toml.",
    "train": "Data scientist: train what study.toml says; --check only explains it.",
    "secagg": "Data scientist: `secagg plan N` says what secure aggregation of N hospitals needs and costs.",
    "budget": "Anybody: what a study will cost each patient, and what a hospital has left (`--node`).",
    "report": "The HTML report of a run.",
    "mpc": "Model owner: `mpc plan MODEL` says what an encrypted diagnosis by it costs.",
    "deploy": "Model owner: sealed files for a dealer and two servers.",
    "token": "Model owner: let somebody ask for a number of diagnoses.",
    "dealer": "Crypto provider: deal the randomness of encrypted diagnoses.",
    "serve": "One of the two servers of encrypted diagnoses.",
    "diagnose": "Clinician or patient: an encrypted diagnosis of an image.",
}


class _Verbs(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        module: Any = import_module(f"primum.cli.{name}")
        command: click.Command = module.command
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=_Verbs)
@click.version_option(__version__)
def _group() -> None:
    """Primum: hospitals learn together without showing anything; a diagnosis that no server can read."""


def main() -> None:
    """Entry point of the `primum` command; a user's mistake ends in one or two lines and an exit code."""
    try:
        _group.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        print("\nStopped.", file=sys.stderr)
        sys.exit(130)
    except PrimumError as error:
        print(f"Error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"       {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
