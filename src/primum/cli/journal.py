"""`primum journal`: read a journal, and check that nothing in it was changed."""

from pathlib import Path

import click

from primum.cli import options

_OWNER = click.option(
    "--owner", metavar="KEY", help="Whose journal it is (64 hex digits), if it is not a state folder."
)
_PATH = click.argument("path", type=click.Path(path_type=Path), default=Path("node-state"))


@click.group()
def command() -> None:
    """What a hospital, a coordinator, a dealer or a server was asked and did. PATH is its state folder, or a journal.jsonl."""


@command.command()
@_PATH
@click.option("--study", help="Only the runs of this study: its name, or the beginning of its digest.")
@_OWNER
@options.as_json
def show(path: Path, study: str | None, owner: str | None, as_json: bool) -> None:
    """What was asked, what was sent (kind, bytes), what was spent; the whole chain is checked first."""
    from primum.cli.output import print_json
    from primum.federation.witness import Owned
    from primum.report.journal import in_words, of_study, sent
    from primum.report.words import size

    entries = [link.entry for link in Owned.open(path, owner).links]
    if study is not None:
        entries = of_study(entries, study)
    left = sent(entries)
    if as_json:
        print_json({"entries": entries, "sent_bytes": left.bytes, "rounds": left.rounds, "spent_rdp": left.rdp})
        return
    for entry in entries:
        click.echo(in_words(entry))
    if left.rounds:
        amounts = ", ".join(f"{kind} {size(amount)}" for kind, amount in left.bytes.items())
        click.echo(f"In all, {left.rounds} rounds: {amounts}.")
        click.echo(f"Charged: {left.rdp:.4g} (Renyi divergence at order {left.order}); see `primum budget --node`.")
    if not entries:
        click.echo("Nothing was written down yet." if study is None else f"Nothing about {study!r} stands there.")


@command.command()
@_PATH
@click.option("--against", type=click.Path(path_type=Path), help="The other side's journal: was either written anew?")
@click.option("--against-owner", metavar="KEY", help="Whose that is, if it is not a state folder.")
@_OWNER
@options.as_json
def verify(path: Path, against: Path | None, against_owner: str | None, owner: str | None, as_json: bool) -> None:
    """Check the chain and every signature; with --against also the heads that each side showed to the other.

    One journal alone shows that no line was changed by anybody but its owner. Two show that neither owner did.
    """
    from primum.cli.output import print_json
    from primum.federation.witness import Owned, compare
    from primum.keys.identity import fingerprint

    ours = Owned.open(path, owner)
    told = {"entries": len(ours.links), "owner": ours.owner.hex()}
    lines = [
        f"{ours.path}: {len(ours.links)} entries, the chain is unbroken.",
        f"All are signed by {fingerprint(ours.owner)}.",
    ]
    if against is not None:
        theirs = Owned.open(against, against_owner, "--against-owner")
        kept_here, kept_there = (
            compare(theirs.links, theirs.owner, ours.links),
            compare(ours.links, ours.owner, theirs.links),
        )
        told |= {"their_heads_here": kept_here, "our_heads_there": kept_there}
        lines.append(
            f"{theirs.path}: {len(theirs.links)} entries, unbroken. {kept_here} of its heads are kept here and "
            f"{kept_there} of ours there; all of them are at their place."
        )
    if as_json:
        print_json(told)
        return
    click.echo("\n".join(lines))
