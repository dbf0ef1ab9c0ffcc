"""What is promised, the settings and the model card: the parts of the page that are mostly text."""

import json
from typing import Any, Final

from primum.report.document import section
from primum.report.run import LEDGER, STUDY, Run
from primum.report.words import absent, esc, number, pairs, table

_STAYS: Final = "Images, labels and patients' names never leave a hospital; what leaves is "
_PROMISED: Final = (
    "The coordinator learns the sum of the hospitals' updates and nothing about any single one, in every round.",
    "In an encrypted diagnosis neither server alone, nor the dealer, learns image, features, model or answer.",
)
_PRIVATE: Final = (
    "The released model, and everything published about the hospitals' patients, keeps the privacy stated above."
)
_MORE_COLLUDE: Final = "Against a server and more hospitals together than stated, only the larger figure above holds."
_NOT_PRIVATE: Final = "There was no differential privacy: the released model may reveal who it was trained on."
_COUNTS: Final = (
    "Hospitals counted by their number of images: two rounds whose sets differ by one hospital reveal its number."
)
_NOT_PROMISED: Final = (
    "The two diagnosis servers must not work together, and follow the protocol; so must the dealer.",
    "A patient treated in two hospitals counts twice. A computer that was broken into protects nobody.",
    "The choice of settings and the time that things took are outside the figure.",
    "The model is a research result. It is no medical device, and no diagnosis should rest on it.",
)


def promised(run: Run) -> str:
    """What is promised and what is not."""
    yes = [_STAYS + ("clipped, noisy and masked." if run.private else "masked."), *_PROMISED]
    yes += [_PRIVATE] if run.private else []
    not_promised = [_MORE_COLLUDE if run.private else _NOT_PRIVATE, *_NOT_PROMISED]
    if run.summary.update is not None and run.summary.update.weighting == "images":
        not_promised.insert(0, _COUNTS)
    if run.summary.pinned is False:
        not_promised.insert(0, "Members were not pinned: a server that lies about who takes part was not excluded.")
    columns = (("Promised", yes), ("Not promised", not_promised))
    body = "".join(
        f"<div><h3>{title}</h3><ul>{''.join(f'<li>{line}</li>' for line in told)}</ul></div>" for title, told in columns
    )
    return section("What is promised, and what is not", f'<div class="two">{body}</div>')


def settings(run: Run) -> str:
    """The study as signed, the model card, the ledger and the versions, folded."""
    parts = [
        _fold("Study as signed", _pre(run.study) if run.study else absent(f"There is no {STUDY} in this run.")),
        _fold("Model card", _card(run)),
        _fold("Privacy ledger", _ledger(run)),
        _fold("Versions", _versions(run)),
    ]
    return section("Settings and versions", "".join(parts))


def _fold(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>{body}</details>"


def _pre(text: str) -> str:
    return f"<pre>{esc(text)}</pre>"


def _card(run: Run) -> str:
    if run.card is None:
        return absent("There is no card.json in this run: no model was released.")
    rows: list[tuple[str, str]] = []
    for key, value in run.card.items():
        rows += (
            [(f"{esc(key)}: {esc(inner)}", _value(found)) for inner, found in value.items()]
            if (isinstance(value, dict))
            else [(esc(key), _value(value))]
        )
    return pairs(rows)


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return esc({True: "yes", False: "no", None: "–"}[value])
    if isinstance(value, int | float):
        return number(float(value), 4)
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return esc(", ".join(value))
    return esc(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _ledger(run: Run) -> str:
    if not run.ledger:
        return absent(f"There is no {LEDGER} in this run, or it is empty.")
    keys = list(dict.fromkeys(key for record in run.ledger for key in record))[:8]
    rows = [tuple(_value(record.get(key)) for key in keys) for record in run.ledger[:1000]]
    return f'<div class="scroll">{table([esc(key) for key in keys], rows)}</div>'


def _versions(run: Run) -> str:
    if not run.summary.versions:
        return absent("This run does not say with which versions it was made.")
    return pairs([(esc(name), esc(version)) for name, version in sorted(run.summary.versions.items())])
