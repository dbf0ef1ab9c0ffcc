"""`primum coordinator`: run the hub; invite hospitals; let scientists in."""

from pathlib import Path

import click

DEFAULT_STATE = Path("coordinator-state")


@click.group(invoke_without_command=True)
@click.option(
    "--state", type=click.Path(path_type=Path), default=DEFAULT_STATE, help="Folder for keys, members and runs."
)
@click.option("--host", default="127.0.0.1", help="Address that hospitals reach.")
@click.option("--port", default=9443, help="The one port that hospitals reach.")
@click.pass_context
def command(context: click.Context, state: Path, host: str, port: int) -> None:
    """Run the hub: Flower's SuperLink behind one TLS port. Makes its keys on the first start."""
    context.obj = state
    if context.invoked_subcommand is not None:
        return
    from primum.federation.coordinator import Coordinator, State
    from primum.keys.identity import fingerprint

    opened = State.open(state)

    def ready(address: str) -> None:
        click.echo(f"Coordinator ready at {address}; its fingerprint: {fingerprint(opened.identity.public)}")
        click.echo("Invite a hospital: primum coordinator --state STATE invite NAME > NAME.join")

    Coordinator(opened, host, port, click.echo).serve(ready)


@command.command()
@click.argument("name")
@click.option("--address", help="HOST:PORT that this hospital shall use, if another than the coordinator's own.")
@click.pass_obj
def invite(state: Path, name: str, address: str | None) -> None:
    """Print a join file for one hospital. It lets somebody in once: send it by a way that you trust."""
    from primum.federation.coordinator import State

    click.echo(State(state).invite(name, address), nl=False)


@command.command()
@click.pass_obj
def members(state: Path) -> None:
    """List the enrolled hospitals, and the fingerprint of their list for the telephone."""
    from primum.federation.enrolment import Register
    from primum.keys.identity import list_fingerprint

    found = Register(state).members()
    for member in found:
        click.echo(f"{member.identity.hex()}  {member.name}")
    click.echo(f"Fingerprint of the list: {list_fingerprint(member.identity for member in found)}")


@command.command()
@click.argument("key")
@click.pass_obj
def scientist(state: Path, key: str) -> None:
    """Let the scientist with this key (64 hex digits) submit studies."""
    from primum.errors import InputError

    if len(key) != 64 or not all(c in "0123456789abcdef" for c in key):
        raise InputError(f"{key!r} is not a key: 64 hex digits.", "The scientist's `primum train --check` shows it.")
    with (state / "scientists.txt").open("a") as file:
        file.write(key + "\n")
