"""`primum report RUN`: the HTML report of a run, written again, or its claims computed again."""

from pathlib import Path

import click

from primum.cli import options


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Compute again what can be computed again, and say what does not hold.")
@options.as_json
def command(run: Path, verify: bool, as_json: bool) -> None:
    """Write RUN/report.html from what is in the folder RUN (runs/<id>), and print where it is.

    With --verify nothing is written: signature, epsilon, ledger, rounds, model and figures are compared with what the
    folder claims. Exit code 3 where something does not hold.
    """
    from primum.cli.output import print_json

    if verify:
        _verify(run, as_json)
        return
    from primum.report import write_report

    path = write_report(run).resolve()
    if as_json:
        print_json({"report": str(path)})
        return
    click.echo(path)


def _verify(run: Path, as_json: bool) -> None:
    from primum.cli.output import print_json
    from primum.errors import PeerError
    from primum.report.verify import verify_run

    checks = verify_run(run)
    if as_json:
        print_json({"checks": [{"name": c.name, "holds": c.holds, "words": c.words} for c in checks]})
    else:
        for check in checks:
            word = {True: "holds", False: "DOES NOT HOLD", None: "not said"}[check.holds]
            click.echo(f"{check.name:11} {word}: {check.words}")
    wrong = [check.name for check in checks if check.holds is False]
    if wrong:
        raise PeerError(f"Not as the folder claims: {', '.join(wrong)}.", "Ask where this run comes from.")
