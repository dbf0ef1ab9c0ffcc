"""Study: what is learned, from what, under which privacy. A TOML file; unknown keys are refused.

A study is data, never code: a hospital reads it, checks it against its own policy and carries it out with what it
installed itself. `Study.text()` is the canonical TOML that the scientist signs.

In: TOML. Out: a `Study`, or StudyError that names file and key; a `SignedStudy` for the hospitals. Read `whole.py` first.

| what | where |
|---|---|
| sections, each by itself; kinds of models | sections.py, kinds.py |
| what goes together | rules.py |
| TOML, and words for what is wrong (other settings files are read by it too) | reading.py |
| signature | signing.py |
"""

from primum.study.reading import parse_settings, parse_toml, read_text
from primum.study.sections import (
    SEPARATOR,
    About,
    Aggregation,
    Augmentation,
    Deadlines,
    Evaluation,
    Hospitals,
    Images,
    Key,
    Labels,
    Loss,
    Measure,
    Privacy,
    Statistics,
    Training,
)
from primum.study.signing import PURPOSE, SignedStudy, sign_study
from primum.study.whole import Study

__all__ = [
    "PURPOSE",
    "SEPARATOR",
    "About",
    "Aggregation",
    "Augmentation",
    "Deadlines",
    "Evaluation",
    "Hospitals",
    "Images",
    "Key",
    "Labels",
    "Loss",
    "Measure",
    "Privacy",
    "SignedStudy",
    "Statistics",
    "Study",
    "Training",
    "parse_settings",
    "parse_toml",
    "read_text",
    "sign_study",
]
