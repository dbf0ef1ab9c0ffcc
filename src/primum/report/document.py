"""One HTML file: everything inline, nothing fetched, no script."""

from collections.abc import Iterable

from primum.report.style import CSS
from primum.report.words import esc


def document(title: str, kind: str, parts: Iterable[str], *, style: str = "", pictures: bool = False) -> str:
    """The whole page; `parts` are HTML, `kind` stands behind the title in the window's bar, `pictures`: data URLs."""
    policy = "default-src 'none'; style-src 'unsafe-inline'" + ("; img-src data:" if pictures else "")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{esc(title)} · {esc(kind)}</title><style>{CSS}{style}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def section(title: str, body: str) -> str:
    """A card with a heading."""
    return f"<section><h2>{esc(title)}</h2>{body}</section>"


def notice(kind: str, title: str, words: str) -> str:
    """A coloured box above everything: `kind` warn or bad."""
    return f'<div class="notice {kind}" role="note"><b>{title}</b><p>{words}</p></div>'


def header(mark: str, title: str, lead: str) -> str:
    """The head of the page; `lead` is HTML."""
    return f'<header><p class="mark">{esc(mark)}</p><h1>{esc(title)}</h1><p class="lead">{lead}</p></header>'
