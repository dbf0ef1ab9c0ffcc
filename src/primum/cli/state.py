"""`primum state`: back up a state folder while its role runs, and make a folder from a backup."""

from pathlib import Path

import click

from primum.cli import options
from primum.cli.output import told


@click.group()
def command() -> None:
    """Back up and restore the state folder of a coordinator, node, dealer or server."""


@command.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
@options.as_json
def backup(folder: Path, file: Path, as_json: bool) -> None:
    """Copy FOLDER into the new FILE (tar.gz, mode 0600), also while the role runs. It holds the role's private keys."""
    from primum import __version__, archive

    manifest = archive.backup(folder, file, __version__)
    size = file.stat().st_size
    told(
        as_json,
        {"file": str(file), "role": manifest.role, "files": len(manifest.files), "bytes": size},
        f"{file}: {len(manifest.files)} files of a {manifest.role}, {size:,} bytes.",
        "It holds private keys: keep it where you would keep those.",
    )


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--journal", type=click.Path(path_type=Path), help="Of a node: journal.jsonl of the folder that is lost.")
@click.option(
    "--study", "studies", multiple=True, type=click.Path(path_type=Path), help="Of a node: a study that ran since."
)
@click.option("--nothing-since", is_flag=True, help="Of a node: no study ran after the backup was made.")
@options.as_json
def restore(
    file: Path, folder: Path, journal: Path | None, studies: tuple[Path, ...], nothing_since: bool, as_json: bool
) -> None:
    """Make the new FOLDER from the backup FILE.

    A node's backup does not know what the node spent afterwards: say it with --journal (exact), --study (the whole of
    each such study is charged) or --nothing-since. Studies that were signed before are refused from then on.
    """
    from primum import archive
    from primum.federation.restoring import Since, finish

    said: list[str] = []
    since = Since(journal, studies, nothing_since)
    manifest = archive.restore(file, folder, lambda staging, found: said.extend(finish(staging, found, since)))
    files, role = len(manifest.files), manifest.role
    data = {"folder": str(folder), "role": role, "files": files, "made": manifest.made, "said": said}
    told(as_json, data, f"{folder}: {files} files of a {role}, as of {_shown(manifest.made)}.", *said)


def _shown(at: float) -> str:
    import time

    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
