"""Plots as inline SVG, drawn by hand: they take the page's colours (light or dark) and need no script and no font."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from primum.report.words import esc

_WIDTH: Final = 440
_HEIGHT: Final = 250
_LEFT: Final = 52
_RIGHT: Final = 14
_TOP: Final = 14
_BOTTOM: Final = 40


@dataclass(frozen=True)
class Curve:
    """Points (x, y) in order; `kind` is the colour: a, b or quiet (dashed grey)."""

    name: str
    points: tuple[tuple[float, float], ...]
    kind: str = "a"


@dataclass(frozen=True)
class Axis:
    """What an axis shows, and from where to where."""

    title: str
    low: float
    high: float


def lines(title: str, x: Axis, y: Axis, curves: Sequence[Curve], *, square: bool = False) -> str:
    """A line chart as SVG; `title` is read aloud. Curves are named in a legend below if there are several."""
    width, height = (360, 346) if square else (_WIDTH, _HEIGHT)
    frame = _Frame(width, height, x, y)
    body = frame.grid() + "".join(frame.curve(curve) for curve in curves)
    legend = _legend(curves) if len(curves) > 1 else ""
    return (
        f'<figure class="{"square" if square else ""}"><svg viewBox="0 0 {width} {height}" role="img" aria-label="{esc(title)}">{body}</svg>'
        f"<figcaption>{esc(title)}{legend}</figcaption></figure>"
    )


def _legend(curves: Sequence[Curve]) -> str:
    items = "".join(f'<span class="key {curve.kind}"></span>{esc(curve.name)}' for curve in curves)
    return f'<span class="legend">{items}</span>'


@dataclass(frozen=True)
class _Frame:
    width: int
    height: int
    x: Axis
    y: Axis

    def place(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x.low) / ((self.x.high - self.x.low) or 1)
        up = (y - self.y.low) / ((self.y.high - self.y.low) or 1)
        inner_width, inner_height = self.width - _LEFT - _RIGHT, self.height - _TOP - _BOTTOM
        return _LEFT + across * inner_width, self.height - _BOTTOM - up * inner_height

    def grid(self) -> str:
        left, bottom = self.place(self.x.low, self.y.low)
        right, _ = self.place(self.x.high, self.y.high)
        parts = []
        for tick in ticks(self.y.low, self.y.high):
            _, y = self.place(self.x.low, tick)
            parts.append(f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{left - 7:.1f}" y="{y + 4:.1f}" text-anchor="end">{_label(tick)}</text>')
        for tick in ticks(self.x.low, self.x.high):
            x, _ = self.place(tick, self.y.low)
            parts.append(f'<text x="{x:.1f}" y="{bottom + 17:.1f}" text-anchor="middle">{_label(tick)}</text>')
        middle = (left + right) / 2
        parts.append(f'<line class="axis" x1="{left:.1f}" x2="{right:.1f}" y1="{bottom:.1f}" y2="{bottom:.1f}"/>')
        parts.append(
            f'<text class="name" x="{middle:.1f}" y="{self.height - 5}" text-anchor="middle">{esc(self.x.title)}</text>'
        )
        middle_y = (_TOP + bottom) / 2
        parts.append(
            f'<text class="name" transform="translate(13 {middle_y:.1f}) rotate(-90)" '
            f'text-anchor="middle">{esc(self.y.title)}</text>'
        )
        return "".join(parts)

    def curve(self, curve: Curve) -> str:
        places = [self.place(x, y) for x, y in curve.points if math.isfinite(x) and math.isfinite(y)]
        if len(places) == 1:
            return f'<circle class="dot {curve.kind}" cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="4"/>'
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        return f'<polyline class="curve {curve.kind}" points="{path}"/>'


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them (1, 2, 2.5 or 5 times a power of ten apart)."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _label(value: float) -> str:
    if value == int(value) and abs(value) < 1e5:
        return f"{int(value):,}"
    return f"{value:.3g}"


def bars(title: str, rows: Sequence[tuple[str, float, str]]) -> str:
    """Horizontal bars (name, length, words) as HTML: they wrap on a narrow screen."""
    longest = max((length for _, length, _ in rows), default=0) or 1
    body = "".join(
        f'<div class="bar"><span class="what">{esc(name)}</span>'
        f'<span class="track"><span class="fill" style="width:{100 * length / longest:.2f}%"></span></span>'
        f'<span class="much">{words}</span></div>'
        for name, length, words in rows
    )
    return f'<figure class="bars">{body}<figcaption>{esc(title)}</figcaption></figure>'


def matrix(title: str, classes: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """A confusion matrix as an HTML table; a cell is darker the larger its share of its row."""
    head = "".join(f'<th scope="col">{esc(name)}</th>' for name in classes)
    body = ""
    for name, row in zip(classes, counts, strict=True):
        total = sum(row) or 1
        cells = "".join(
            f'<td class="{"hot" if 2 * count > total else ""}" style="--share:{100 * count / total:.0f}%"><b>{count}</b><small>{100 * count / total:.0f} %</small></td>'
            for count in row
        )
        body += f'<tr><th scope="row">{esc(name)}</th>{cells}</tr>'
    return (
        f'<figure class="confusion"><table><thead><tr><td class="corner">is ↓ &nbsp; called →</td>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table><figcaption>{esc(title)}</figcaption></figure>"
    )
