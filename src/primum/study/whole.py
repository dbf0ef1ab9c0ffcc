"""One study: all its sections, checked together."""

import datetime
from pathlib import Path
from typing import get_args

import tomli_w
from pydantic import model_validator

from primum.errors import StudyError
from primum.study.kinds import AnyModel, Model, Section
from primum.study.reading import parse_toml, read_text, together
from primum.study.rules import broken_rules
from primum.study.sections import (
    About,
    Aggregation,
    Augmentation,
    Deadlines,
    Evaluation,
    Hospitals,
    Images,
    Measure,
    Privacy,
    Statistics,
    Training,
)

_EXACT_LOOKS = 10  # that a study without privacy takes at most: they cost nothing, because nothing is promised


class Study(Section):
    """One study. See `federation/README` and `primum new study` for a commented file."""

    study: About
    images: Images = Images()
    model: AnyModel = Model()
    training: Training = Training()
    augmentation: Augmentation | None = None
    aggregation: Aggregation = Aggregation()
    evaluation: Evaluation | None = None
    statistics: Statistics | None = None
    privacy: Privacy | None = None
    hospitals: Hospitals
    deadlines: Deadlines = Deadlines()

    @model_validator(mode="after")
    def _consistent(self) -> "Study":
        if broken := broken_rules(self):
            raise ValueError(together(*broken))
        return self

    @property
    def looks(self) -> int:
        """How often the hospitals' evaluation patients are looked at."""
        if self.privacy is not None:
            return self.privacy.looks
        return _EXACT_LOOKS if self.evaluation is not None else 0

    @property
    def surveys(self) -> int:
        """How often the hospitals are asked what their patients are like: once, or never."""
        return int(self.statistics is not None and self.statistics.asked)

    @property
    def evaluation_share(self) -> float:
        """The share of each hospital's patients on whom nothing is trained; without [privacy] all, if nothing is."""
        if self.privacy is not None:
            return self.privacy.evaluation_share
        if self.evaluation is None:
            return 0.0
        return self.evaluation.share or (1.0 if self.training.rounds == 0 else 0.15)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What a look tells of masks: without noise all there is, unless the study says less."""
        if self.evaluation is not None and self.evaluation.measures is not None:
            return self.evaluation.measures
        return ("dice",) if self.privacy is not None else get_args(Measure)

    @property
    def looks_at_learners(self) -> bool:
        """Whether patients are looked at on whom the finished model may have been trained: nobody says who was not."""
        return self.training.rounds == 0 and self.privacy is None and self.evaluation_share >= 1

    @property
    def ended(self) -> bool:
        """Whether the day is past after which no hospital answers."""
        return self.study.expires is not None and self.study.expires < datetime.date.today()

    def require_open(self, source: str) -> None:
        """StudyError that names `source` where the study has ended."""
        if self.ended:
            raise StudyError(
                f"{source}: study.expires = {self.study.expires} is past: no hospital answers after it.",
                "Write a day to come, or leave it out.",
            )

    def text(self) -> str:
        """The canonical TOML: every setting, in order."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))

    @classmethod
    def parse(cls, text: str, source: str) -> "Study":
        """The study in `text`; StudyError that names `source`, the key, and for an unknown key the nearest one."""
        return parse_toml(cls, text, source)

    @classmethod
    def read(cls, path: Path) -> "Study":
        """The study in the file `path`."""
        return cls.parse(read_text(path), str(path))
