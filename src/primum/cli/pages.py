"""One page a verb, made from the verb itself: `scripts/docs` writes them, a test compares them with the verbs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from primum.cli import VERBS, find_verb
from primum.disk import write

FOLDER: Final = Path("docs/reference/commands")
_LINES: Final = "one object a line while it runs: `at` (seconds since 1970), `said`"
_KEYS: Final = {
    "demo": "`report`, `agrees`, `lines`",
    "coordinator": _LINES,
    "coordinator invite": "`hospital`, `join_file` (its text)",
    "coordinator members": "`members` (`identity`, `name`), `fingerprint`",
    "coordinator revoke": "`hospital`, `identity` (null: it had not come in), `runs` that name it",
    "coordinator rotate": "`shown_from` (seconds since 1970)",
    "coordinator scientist": "`scientist`",
    "node": f"`offer` (as `inspect`), then {_LINES}",
    "consent list": "`studies`: each as `consent show`",
    "consent show": "`digest`, `name`, `asker`, `at`, `answer` (yes, no, waiting), `words`, `answers` (`by`, `answer`, `at`, `until`)",
    "consent yes": "as `consent show`",
    "consent no": "as `consent show`",
    "consent withdraw": "as `consent show`",
    "consent key": "`signer`",
    "record": "the facts that are signed: `hospital`, `study`, `name`, `purpose`, `asker`, `members`, `stands`, `version`, "
    "`code_sha256`, `rounds`, `sent_bytes`, `epsilon`, `epsilon_of_all_studies`, `epsilon_cap`, `journal_entries`, `journal_head`, `made`",
    "doctor": "`checks` and `allow`, as the lines on the screen",
    "inspect": "`images`, `patients`, `labels`, `classes`, `formats`, `spacing`, `notices`, `problems`, with `--against` also `against`; of a folder that is refused `problems` alone",
    "data list": "`sets` (`name`, `sizes`, `licence`, `about`)",
    "data get": "`files`, `licence`, `citation`",
    "data unpack": "`folder`, `parts` (images in each), `notices`",
    "pacs receive": f"{_LINES}; at the end as `pacs pull`",
    "pacs pull": "`new`, `unlabelled`, `there`, `set_aside`, `rejected`, `removed`, `emptied`, `replaced`, `notices`: counts, never a value",
    "new study": "`study`",
    "train": "`run`, `state`, `folder`, `model`, `report`; with --check `explanation`; with --ablate `neither`, `clipped`, `private`, `epsilon`",
    "evaluate": "`run`, `figures`, `report`",
    "status": "`runs`: `name`, `state`, `message`, `at`, `rounds`, `of`, `stage`, `since`, `until`, `awaited` (`place`, `name`, `last_seen`), `stopping`",
    "stop": "`run`, `state`, `stopping`",
    "resume": "`run`, `state`",
    "journal show": "`entries`, `sent_bytes` by kind, `rounds`, `spent_rdp`",
    "journal verify": "`entries`, `owner`; with --against `their_heads_here`, `our_heads_there`",
    "secagg plan": "one object a set-up and line: parameters and cost",
    "budget": "`study`, `node`",
    "state backup": "`file`, `role`, `files`, `bytes`",
    "state restore": "`folder`, `role`, `files`, `made`, `said`",
    "report": "`report`; with --verify `checks` (`name`, `holds`, `words`)",
    "mpc plan": "the whole and each operation",
    "deploy": "`files`, `public`, `fingerprint`",
    "token": "`token`, `holder`, `images`, `days`",
    "dealer": f"{_LINES}; with --init `card`, `fingerprint`",
    "serve": f"{_LINES}; with --init `card`, `fingerprint`",
    "diagnose": "a list: `image`, `diagnosis`, `probabilities` and `logits` (of a mask `shares`), `number`, `seconds`, `bytes`, `model`",
}


def page(verb: str) -> str:
    """The page of one verb in Markdown, its subverbs below it."""
    parts = [f"# primum {verb}\n", f"{VERBS[verb]}\n"]
    for name, command in commands(verb):
        if name != verb or not isinstance(command, click.Group) or command.invoke_without_command:
            parts.append(_part(name, command, heading=name != verb))
    parts.append("Exit codes: [all verbs share them](../exit-codes.md).\n")
    return "\n".join(parts)


def commands(verb: str) -> Iterator[tuple[str, click.Command]]:
    """The verb, and its subverbs by name."""
    command = find_verb(verb)
    yield verb, command
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield f"{verb} {name}", command.commands[name]


def index() -> str:
    """The list of all pages."""
    rows = "\n".join(f"| [`primum {verb}`]({verb}.md) | {about} |" for verb, about in VERBS.items())
    return f"# Commands\n\n| verb | what |\n|---|---|\n{rows}\n"


def write_pages(folder: Path) -> list[Path]:
    """Write all pages below `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"index": index(), **{verb: page(verb) for verb in VERBS}}
    for name, text in texts.items():
        write(folder / f"{name}.md", text.encode())
    return [folder / f"{name}.md" for name in texts]


def _part(name: str, command: click.Command, heading: bool) -> str:
    context = click.Context(command, info_name=f"primum {name}")
    usage = command.get_usage(context).removeprefix("Usage: ").replace("\n", " ")
    lines = [f"## primum {name}\n"] if heading else []
    lines += [f"    {' '.join(usage.split())}\n", _help(command)]
    rows = [_row(option, context) for option in command.params if isinstance(option, click.Option)]
    lines.append("| option | what |\n|---|---|\n" + "\n".join(rows) + "\n")
    lines.append(f"With `--json`: {_KEYS[name]}.\n")
    return "\n".join(lines)


def _help(command: click.Command) -> str:
    """The words of --help; what stands there in lines of its own stays so."""
    parts = []
    for part in (command.help or "").split("\n\n"):
        if part.startswith("\b\n"):
            parts.append("\n".join(f"    {line}" for line in part.removeprefix("\b\n").splitlines()))
        else:
            parts.append(" ".join(part.split()))
    return "\n\n".join(parts) + "\n"


def _row(option: click.Option, context: click.Context) -> str:
    shown = option.make_metavar(context) if not option.is_flag else ""
    names = ", ".join([*option.opts, *option.secondary_opts])
    default: Any = option.default if not option.is_flag and option.show_default else None
    about = (option.help or "").replace("|", "\\|")
    about += f" Default: {default}." if default not in (None, "") else ""
    about += " Needed." if option.required else ""
    return f"| `{f'{names} {shown}'.strip().replace('|', ', ')}` | {about} |"


if __name__ == "__main__":
    write_pages(FOLDER)
