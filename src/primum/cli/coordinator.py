"""`primum coordinator`: run the hub; invite hospitals; let scientists in."""

from pathlib import Path

import click

from primum.cli import options
from primum.cli.output import sayer, told
from primum.logs import Form, kept

DEFAULT_STATE = Path("coordinator-state")


@click.group(invoke_without_command=True)
@click.option(
    "--state", type=click.Path(path_type=Path), default=DEFAULT_STATE, help="Folder for keys, members and runs."
)
@click.option("--host", default="127.0.0.1", help="Address that hospitals reach.")
@click.option("--port", default=9443, type=click.IntRange(1, 65535), help="The one port that hospitals reach.")
@click.option(
    "--listen", metavar="HOST:PORT", help="Listen there, where that is not --host and --port (NAT, container)."
)
@click.option("--studies-at-once", default=4, show_default=True, type=click.IntRange(1, 64), help="Others wait.")
@options.metrics
@options.log
@options.as_json
@click.pass_context
def command(
    context: click.Context,
    state: Path,
    host: str,
    port: int,
    listen: str | None,
    studies_at_once: int,
    metrics: str | None,
    log_file: Path | None,
    log_format: Form,
    as_json: bool,
) -> None:
    """Run the hub: Flower's SuperLink behind one TLS port. Makes its keys on the first start."""
    context.obj = state
    if context.invoked_subcommand is not None:
        return
    from primum.federation.alone import alone
    from primum.federation.coordinator import Coordinator, State
    from primum.keys.identity import fingerprint
    from primum.watch import watching

    opened = State.open(state)

    with kept(log_file, log_format, "coordinator", sayer(as_json)) as say:

        def ready(address: str) -> None:
            say(f"Coordinator ready at {address}; its fingerprint: {fingerprint(opened.identity.public)}")
            say("Invite a hospital: primum coordinator --state STATE invite NAME > NAME.join")

        coordinator = Coordinator(opened, host, port, say, studies_at_once, listen)
        with alone(opened.folder, "coordinator"), watching(metrics, coordinator.watched()):
            coordinator.serve(ready)


@command.command()
@click.argument("name")
@click.option("--address", help="HOST:PORT that this hospital shall use, if another than the coordinator's own.")
@options.as_json
@click.pass_obj
def invite(state: Path, name: str, address: str | None, as_json: bool) -> None:
    """Print a join file for one hospital. It lets somebody in once: send it by a way that you trust."""
    from primum.federation.coordinator import State

    text = State(state).invite(name, address)
    told(as_json, {"hospital": name, "join_file": text}, text.rstrip("\n"))


@command.command()
@click.argument("name")
@options.as_json
@click.pass_obj
def revoke(state: Path, name: str, as_json: bool) -> None:
    """Take a hospital out, at once: its keys and its join file open nothing any more."""
    from primum.federation.coordinator import State

    member, runs = State(state).revoke(name)
    data = {"hospital": name, "identity": member.identity.hex() if member else None, "runs": [run.name for run in runs]}
    if member is None:
        told(as_json, data, f"{name} had not come in yet: its join file is worthless now.")
        return
    told(
        as_json,
        data,
        f"{name} is out ({member.identity.hex()[:16]}...). To let it in again, invite it anew.",
        *(f"Run {run.name} names it, and goes on without it as far as its study allows (may_vanish)." for run in runs),
    )


@command.command()
@click.option(
    "--in", "days", type=click.FloatRange(0, 365), default=30.0, show_default=True, help="Days until it is shown."
)
@options.as_json
@click.pass_obj
def rotate(state: Path, days: float, as_json: bool) -> None:
    """Make another TLS certificate for the port. Hospitals learn it by themselves; keep the coordinator running."""
    import time

    from primum.federation.coordinator import State

    shown = State(state).rotate(days)
    at = time.strftime("%Y-%m-%d %H:%M", time.localtime(shown))
    words = f"The next certificate is made. The port shows it from {at} on; whoever connects learns it before."
    told(as_json, {"shown_from": shown}, words)


@command.command()
@options.as_json
@click.pass_obj
def members(state: Path, as_json: bool) -> None:
    """List the enrolled hospitals, and the fingerprint of their list for the telephone."""
    from primum.federation.enrolment import Register
    from primum.keys.identity import fingerprint, list_fingerprint

    found = Register(state).members()
    of_list = list_fingerprint(member.identity for member in found)
    rows = [
        {"identity": member.identity.hex(), "name": member.name, "fingerprint": fingerprint(member.identity)}
        for member in found
    ]
    words = [f"{row['identity']}  {row['name']}\n    {row['fingerprint']}" for row in rows]
    last = f"Fingerprint of the list: {of_list}" if found else "No hospital has come in yet."
    told(as_json, {"members": rows, "fingerprint": of_list}, *words, last)


@command.command()
@click.argument("key")
@options.as_json
@click.pass_obj
def scientist(state: Path, key: str, as_json: bool) -> None:
    """Let the scientist with this key (64 hex digits) submit studies."""
    from primum.errors import InputError

    if len(key) != 64 or not all(c in "0123456789abcdef" for c in key):
        raise InputError(f"{key!r} is not a key: 64 hex digits.", "The scientist's `primum train --check` shows it.")
    with (state / "scientists.txt").open("a") as file:
        file.write(key + "\n")
    told(as_json, {"scientist": key}, f"{key[:16]}... may hand in studies from now on.")
