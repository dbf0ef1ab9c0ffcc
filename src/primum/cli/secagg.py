"""`primum secagg plan N`: what secure aggregation of N hospitals needs and costs, before there is a study."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from primum.secagg import Setup, Shape

SHARES = (0.05, 0.10, 0.20)
AES_PER_SECOND = 8e9  # bytes of AES-256-CTR on one core of the machine that docs/benchmarks.md names


@click.group()
def command() -> None:
    """Secure aggregation: what it needs and costs."""


@command.command()
@click.argument("n", type=click.IntRange(min=1))
@click.option("--colluding", type=click.IntRange(min=0), help="Hospitals that may be with the server.")
@click.option("--may-vanish", type=click.IntRange(min=0), help="Hospitals that may miss a round.")
@click.option("--coordinates", type=click.IntRange(min=1), default=11_200_000, show_default=True, help="Of one update.")
@click.option("--bits", type=click.IntRange(8, 32), default=24, show_default=True, help="A coordinate.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line instead of the table.")
def plan(n: int, colluding: int | None, may_vanish: int | None, coordinates: int, bits: int, as_json: bool) -> None:
    """The parameters of N hospitals, for the given numbers or for 5, 10 and 20 % colluding and vanishing."""
    from primum.errors import StudyError
    from primum.secagg import Setup, Shape

    shape, pairs = Shape(coordinates, bits), [(int(n * share), int(n * share)) for share in SHARES]
    if n <= 20:
        pairs = [(1, d) for d in range(4)]
    given = colluding is not None or may_vanish is not None
    if given:
        pairs = [(1 if colluding is None else colluding, may_vanish or 0)]
    rows: list[dict[str, Any]] = []
    for c, d in dict.fromkeys(pairs):
        try:
            rows.append(describe(Setup(n, c, d), shape))
        except StudyError as error:
            if given or n < 3:
                raise
            rows.append({"colluding": c, "may_vanish": d, "refused": error.message})
    for row in rows if as_json else ():
        click.echo(json.dumps(row))
    if not as_json:
        show(n, rows)


def describe(setup: "Setup", shape: "Shape") -> dict[str, Any]:
    """One set-up and its cost, by name."""
    from primum.secagg import cost

    session, one_round = cost.of_session(setup), cost.of_round(setup, shape)
    return {
        "colluding": setup.colluding,
        "may_vanish": setup.may_vanish,
        "degree": setup.degree,
        "most_colluding_in_a_neighbourhood": setup.neighbourhood.colluding,
        "threshold": setup.threshold,
        "committee": asdict(setup.committee) if setup.confirms else None,
        "k_min": setup.k_min,
        "exchanges": one_round.exchanges,
        "sent_bytes": one_round.sent,
        "received_bytes": one_round.received,
        "aes_bytes": one_round.aes,
        "session_exchanges": session.exchanges,
        "session_sent_bytes": session.sent,
        "session_received_bytes": session.received,
    }


def show(n: int, rows: list[dict[str, Any]]) -> None:
    """One column a set-up; what is refused, and why, below."""
    from primum.secagg.setup import MOST_COMPLETE

    shown = [row for row in rows if "refused" not in row]
    lines: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("may be with the server", lambda row: f"{row['colluding']}"),
        ("may miss a round", lambda row: f"{row['may_vanish']}"),
        ("neighbours of each", lambda row: f"{row['degree']}"),
        ("of whom collude at most", lambda row: f"{row['most_colluding_in_a_neighbourhood']}"),
        ("shares that open a secret", lambda row: f"{row['threshold']}"),
        ("exchanges a round", lambda row: f"{row['exchanges']}"),
        ("signatures before shares", lambda row: f"{row['committee']['needed']}" if row["committee"] else "-"),
        ("honest in any sum, at least", lambda row: f"{row['k_min']}"),
        ("sent a round", lambda row: size(row["sent_bytes"])),
        ("received a round, less the model", lambda row: size(row["received_bytes"])),
        ("masks of a round, one core", lambda row: f"{row['aes_bytes'] / AES_PER_SECOND:.3f} s"),
        ("sent at the start", lambda row: size(row["session_sent_bytes"])),
        ("received at the start", lambda row: size(row["session_received_bytes"])),
    ]
    if shown:
        click.echo(f"Secure aggregation of {n:,} hospitals; what one of them sends, receives and computes:\n")
        for name, value in lines:
            click.echo(f"{name:34}" + "".join(f"{value(row):>12}" for row in shown))
        click.echo()
    for row in rows:
        if "refused" in row:
            click.echo(f"Refused: {row['refused']}")
    click.echo(f"Masks: AES-256-CTR at {AES_PER_SECOND / 1e9:g} GB/s.")
    if n > MOST_COMPLETE:
        click.echo(
            "Random graph and committee fail with probability 2^-40 at most (docs/design/secure-aggregation.md)."
        )


def size(count: int) -> str:
    """Bytes in words."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"
