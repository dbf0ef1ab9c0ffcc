"""`primum pacs`: images from a PACS into the node's folder, by C-STORE or DICOMweb, de-identified on the way."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from primum.cli import options
from primum.cli.output import print_json, sayer
from primum.cli.progress import bar


@click.group()
def command() -> None:
    """Images from a PACS into a folder, de-identified on the way: `receive` what it sends, or `pull` by DICOMweb.

    What names somebody is removed before anything is written (DICOM PS3.15, Basic Application Level Confidentiality
    Profile), and counted. Patients and UIDs become pseudonyms under the node's own key. What stands in the pixels
    stays: a file that says that text is burned in is set aside, unless it is blanked.
    """


def _shared(verb: Callable[..., None]) -> Callable[..., None]:
    """What both verbs ask for: where to, under which key, and what becomes of an object."""
    for option in reversed(
        [
            click.option("--to", "folder", type=click.Path(path_type=Path), required=True, help="Folder for images."),
            click.option(
                "--state", type=click.Path(path_type=Path), default=Path("node-state"), show_default=True,
                help="The node's folder: its key makes the pseudonyms.",
            ),
            click.option("--class-from", metavar="ATTRIBUTE", help="Class from an attribute, as in StudyDescription."),
            click.option("--keep-characteristics", is_flag=True, help="Keep age, sex, size, weight and the like."),
            click.option(
                "--blank", "boxes", multiple=True, metavar="T,L,B,R",
                help="Blank this rectangle of every picture; again for more.",
            ),
            click.option("--blank-text", is_flag=True, help="Blank text where it is found near the borders."),
            options.as_json,
        ]
    ):  # fmt: skip
        verb = option(verb)
    return verb


@command.command()
@_shared
@click.option(
    "--port", default=11112, show_default=True, type=click.IntRange(0, 65535), help="Port to listen at; 0: any."
)
@click.option("--title", default="PRIMUM", show_default=True, help="Our AE title.")
@click.option("--from", "senders", multiple=True, metavar="TITLE", help="Who may send (AE title); again for more.")
@click.option("--address", default="127.0.0.1", show_default=True, help="Address to listen at; others need --from.")
@click.option("--certificate", type=click.Path(path_type=Path), help="TLS 1.3: our certificate (PEM).")
@click.option("--key", type=click.Path(path_type=Path), help="TLS 1.3: its key (PEM).")
@click.option("--authority", type=click.Path(path_type=Path), help="Only senders with a certificate signed by it.")
def receive(
    folder: Path, state: Path, class_from: str | None, keep_characteristics: bool, boxes: tuple[str, ...],
    blank_text: bool, port: int, title: str, senders: tuple[str, ...], address: str, certificate: Path | None,
    key: Path | None, authority: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Receive what a PACS sends (C-STORE) until Ctrl-C, then say what came and what was removed.

    A file lies at TO/class/patient/series/instance.dcm, all but the class pseudonyms; the class is `incoming` unless
    --class-from names an attribute. Listens on this machine alone unless --address names another of its addresses.
    """
    import signal
    import threading

    from primum.imaging.receive import Door, receiving

    door = Door(address, port, title, senders, _certificates(certificate, key, authority))
    inbox = _inbox(folder, state, class_from, keep_characteristics, boxes, blank_text)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    say = sayer(as_json)
    with _counter(lambda: inbox.new + inbox.there) as told, receiving(inbox, door, told, say) as listening:
        say(f"READY {title} at {address}:{listening}. Ctrl-C ends it.")
        while not stop.wait(0.2):
            continue
    _say(inbox, as_json)


@command.command()
@click.argument("url")
@_shared
@click.option("--modality", metavar="CR", help="Only series of this modality.")
@click.option("--study-date", metavar="DATES", help="Only studies of 20240131, or of 20240101-20241231.")
@click.option("--most", type=click.IntRange(1), help="At most so many images.")
@click.option(
    "--credentials", type=click.Path(path_type=Path), help="File (mode 600): `Bearer TOKEN`, or `NAME:PASSWORD`."
)
@click.option("--authority", type=click.Path(path_type=Path), help="Who signs the server's certificate (PEM).")
def pull(
    url: str, folder: Path, state: Path, class_from: str | None, keep_characteristics: bool, boxes: tuple[str, ...],
    blank_text: bool, modality: str | None, study_date: str | None, most: int | None, credentials: Path | None,
    authority: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Fetch images from the DICOMweb server at URL (QIDO-RS, WADO-RS), and say what came and what was removed.

    URL ends where /studies would follow, as https://pacs:8443/dicom-web. What is in TO already is not fetched again: a
    pull that was stopped goes on.
    """
    from primum.imaging import dicomweb

    server, wanted = dicomweb.Server(url, credentials, authority), dicomweb.Wanted(modality, study_date, most)
    inbox = _inbox(folder, state, class_from, keep_characteristics, boxes, blank_text)
    pulled = None
    try:
        with bar("fetching", quiet=as_json) as report:
            pulled = dicomweb.pull(server, wanted, inbox, report)
        if not as_json:
            click.echo(f"{pulled.found} found, {pulled.fetched} fetched.")
            _list("Not given by the server", pulled.gone)
    finally:
        if pulled or inbox.new or inbox.there or inbox.aside:
            _say(inbox, as_json)


def _inbox(
    folder: Path, state: Path, class_from: str | None, keep: bool, boxes: tuple[str, ...], blank_text: bool
) -> Any:
    from primum.federation.node import NodeState
    from primum.imaging.inbox import Inbox, Rules
    from primum.report.suspects import text_boxes

    rules = Rules(class_from, keep, tuple(_box(text) for text in boxes), text_boxes if blank_text else None)
    inbox = Inbox(folder, NodeState.open(state).pseudonym_key, rules)
    inbox.require_writable()
    return inbox


def _box(text: str) -> tuple[int, int, int, int]:
    try:
        top, left, bottom, right = (int(part) for part in text.split(","))
    except ValueError:
        top, left, bottom, right = 0, 0, 0, 0
    if not (0 <= top < bottom and 0 <= left < right):
        raise click.BadParameter(
            "a rectangle is top,left,bottom,right in pixels, as in 0,0,40,512", param_hint="--blank"
        )
    return top, left, bottom, right


def _certificates(certificate: Path | None, key: Path | None, authority: Path | None) -> Any:
    from primum.imaging.receive import Certificates

    if certificate is None and key is None and authority is None:
        return None
    if certificate is None or key is None:
        raise click.UsageError("TLS needs --certificate and --key (and --authority, if senders must show one).")
    return Certificates(certificate, key, authority)


def _say(inbox: Any, as_json: bool) -> None:
    """What came and what was removed: counts and names of attributes, never a value."""
    removed = inbox.removed
    if as_json:
        kinds = ("removed", "emptied", "replaced", "notices")
        counts = {kind: dict(getattr(removed, kind)) for kind in kinds}
        print_json(
            {
                "new": inbox.new,
                "unlabelled": inbox.unlabelled,
                "there": inbox.there,
                "set_aside": dict(inbox.aside),
                "rejected": dict(inbox.rejected),
                **counts,
            }
        )
        return
    click.echo(
        f"{inbox.new} new files in {inbox.folder}; {inbox.there} were there; {sum(inbox.aside.values())} set aside."
    )
    if inbox.unlabelled:
        from primum.imaging.inbox import UNLABELLED

        keyword = inbox.rules.class_from
        click.echo(f"{inbox.unlabelled} of them lie in {UNLABELLED}/: their {keyword} is empty, or names the patient.")
    _list("Senders that were rejected", inbox.rejected)
    _list("Set aside", inbox.aside)
    _list("Removed", removed.removed)
    _list("Emptied", removed.emptied)
    _list("Replaced by pseudonyms or dummies", removed.replaced)
    if removed.blanked:
        click.echo(f"Rectangles blanked: {removed.blanked}. Look whether all text is gone.")
    _list("Look at these", removed.notices)


def _list(title: str, counts: Counter[str]) -> None:
    if counts:
        click.echo(f"{title}:")
        for name, count in counts.most_common():
            click.echo(f"  {count:>7}  {name}")


@contextmanager
def _counter(count: Callable[[], int]) -> Iterator[Callable[[], None]]:
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console

    with Console(stderr=True).status("waiting") as status:
        yield lambda: status.update(f"{count()} received")
