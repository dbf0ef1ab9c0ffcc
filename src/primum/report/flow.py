"""Two drawings of who saw what: how the model was trained, and how a diagnosis is made. Inline SVG in the page's colours."""

from typing import Final

from primum.report.words import esc

_ARROWS: Final = (
    '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
    'orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z" class="tip"/></marker></defs>'
)


def training(hospitals: int, *, private: bool) -> str:
    """Hospitals keep images; what leaves them is masked (with privacy: clipped and noisy before); one sees the sum."""
    shown = min(max(hospitals, 1), 3)
    names = [f"Hospital {index + 1}" for index in range(shown)]
    if hospitals > 3:
        names[2] = f"… Hospital {hospitals}"
    parts = [_ARROWS]
    for index, name in enumerate(names):
        y = 14 + index * 92 + (3 - shown) * 46
        parts.append(
            _box(
                8, y, 152, 74, name, ("images, labels, keys", "clip + own noise + mask" if private else "mask"), "holds"
            )
        )
        parts.append(_arrow(160, y + 37, 288, 118 + index * 30 + (3 - shown) * 15, sealed=True))
    parts.append(_words(300, 52, "masked numbers only,", "small"))
    parts.append(_words(300, 68, "each looks random", "small"))
    parts.append(
        _box(
            290,
            100,
            142,
            96,
            "Coordinator",
            ("sees the noisy sum," if private else "sees the sum,", "never one hospital's", "part of it"),
            "sees",
        )
    )
    parts.append(_arrow(361, 196, 361, 236))
    parts.append(_box(290, 238, 142, 52, "Scientist", ("the model, its card",), "sees"))
    return _drawing("Training: who saw what", "".join(parts), 300)


def diagnosis() -> str:
    """The clinician's image is split in two shares; the servers compute on shares; only the clinician sees the answer."""
    parts = [
        _ARROWS,
        _box(8, 104, 132, 86, "Clinician", ("image; computes the", "features; opens the", "two answers"), "holds"),
        _box(288, 14, 144, 64, "Server A", ("random-looking shares", "of features and model"), "blind"),
        _box(288, 216, 144, 64, "Server B", ("random-looking shares", "of features and model"), "blind"),
        _box(288, 114, 144, 66, "Dealer", ("randomness only:", "no image, no model"), "blind"),
        _arrow(140, 122, 288, 46, sealed=True, both=True),
        _arrow(140, 172, 288, 248, sealed=True, both=True),
        _arrow(360, 114, 360, 80),
        _arrow(360, 180, 360, 214),
        _words(178, 66, "share 1, sealed", "small"),
        _words(178, 242, "share 2, sealed", "small"),
    ]
    return _drawing("Diagnosis: who saw what", "".join(parts), 294)


def _drawing(title: str, body: str, height: int) -> str:
    return (
        f'<figure class="flow"><svg viewBox="0 0 440 {height}" role="img" aria-label="{esc(title)}">{body}</svg>'
        f"<figcaption>{esc(title)}</figcaption></figure>"
    )


def _box(x: int, y: int, width: int, height: int, name: str, about: tuple[str, ...], kind: str) -> str:
    middle = x + width / 2
    text = "".join(
        f'<text x="{middle}" y="{y + 38 + 15 * index}" text-anchor="middle" class="small">{esc(line)}</text>'
        for index, line in enumerate(about)
    )
    return (
        f'<rect class="box {kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="9"/>'
        f'<text x="{middle}" y="{y + 20}" text-anchor="middle" class="role">{esc(name)}</text>{text}'
    )


def _arrow(x1: int, y1: int, x2: int, y2: int, *, sealed: bool = False, both: bool = False) -> str:
    start = ' marker-start="url(#tip)"' if both else ""
    kind = "arrow sealed" if sealed else "arrow"
    return f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" marker-end="url(#tip)"{start}/>'


def _words(x: int, y: int, text: str, kind: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="middle" class="{kind}">{esc(text)}</text>'
