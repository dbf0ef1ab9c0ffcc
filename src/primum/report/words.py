"""Numbers and pieces of HTML as words for people."""

import html
import math
from collections.abc import Iterable, Sequence
from typing import Final

from primum.report.run import Figures

DASH: Final = "–"


def esc(value: object) -> str:
    """Text for HTML."""
    return html.escape(str(value))


def number(value: float | None, digits: int = 3) -> str:
    """A number with `digits` significant digits; a dash for None, "no guarantee" is the caller's word for infinity."""
    if value is None:
        return DASH
    if math.isinf(value) or math.isnan(value):
        return "∞" if value > 0 else DASH
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    if abs(value) < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        mantissa = mantissa.removesuffix(".0")
        power = str(int(exponent)).replace("-", "−")
        return f"{'' if mantissa == '1' else mantissa + ' × '}10<sup>{power}</sup>"
    return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def epsilon(value: float | None) -> str:
    """An epsilon, or that there is no guarantee."""
    return "no guarantee" if value is None or not math.isfinite(value) else number(value)


def size(value: float | None) -> str:
    """Bytes in the unit that a person would use."""
    if value is None or not math.isfinite(value):
        return DASH
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return DASH


def seconds(value: float | None) -> str:
    """A duration."""
    if value is None or not math.isfinite(value):
        return DASH
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def between(low: float | None, high: float | None, style: str = "{:.3f}") -> str:
    """An interval in words, empty where a bound is missing."""
    if low is None or high is None:
        return ""
    return f"95 % interval {style.format(low)} to {style.format(high)}"


def in_brackets(low: float | None, high: float | None, style: str = "{:.3f}") -> str:
    """The same behind a figure in a table: " (0.900 to 0.924)"."""
    return "" if low is None or high is None else f" ({style.format(low)} to {style.format(high)})"


def percent(value: float | None) -> str:
    """A share in percent."""
    return DASH if value is None else f"{100 * value:.1f} %"


def of_whom(figures: Figures) -> str:
    """How many images of how many patients."""
    if figures.images is None:
        return ""
    return f"{figures.images} images" + (f" of {figures.patients} patients" if figures.patients else "")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """An HTML table; cells are HTML already. On a narrow screen each row becomes a block with its headings."""
    first = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        "<tr>" + "".join(f'<td data-head="{esc(h)}">{c}</td>' for h, c in zip(head, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<table class="{kind}"><thead><tr>{first}</tr></thead><tbody>{body}</tbody></table>'


def pairs(rows: Iterable[tuple[str, str]]) -> str:
    """Names and values (HTML) one below the other."""
    return '<dl class="pairs">' + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows) + "</dl>"


def absent(what: str) -> str:
    """The sentence for a part of a run that is not there."""
    return f'<p class="absent">{what}</p>'
