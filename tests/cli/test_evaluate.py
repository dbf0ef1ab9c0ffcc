"""What `primum evaluate` prints: figures with intervals, and why they say little."""

import pytest

from primum.cli.evaluate import in_words, refused_look
from primum.errors import Refused
from primum.federation.template import study_template
from primum.study import Study


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        (
            {"auc": 0.84, "auc_low": 0.5539, "auc_high": 1.0, "noise": 2.0, "counts": [[1.0]]},
            "auc 0.840 [0.554, 1.000]",
        ),
        (
            {"dice": 0.5, "dice_low": 0.4, "dice_high": 0.6, "too_few": True, "text": "too few patients"},
            "dice 0.500 [0.400, 0.600] (too few patients)",
        ),
        ({"too_few": True, "text": "too few patients"}, "too few patients"),
    ],
)
def test_figures_in_words(figures: dict[str, object], words: str) -> None:
    assert in_words(figures) == words


@pytest.mark.parametrize("private", [True, False])
def test_a_look_that_is_refused_leads_to_one_that_costs_less(private: bool) -> None:
    study = Study.parse(study_template([f"{place:064x}" for place in (1, 2, 3)]), "template")
    looked = study if private else study.model_copy(update={"privacy": None})
    told = refused_look(Refused("0 of 3 hospitals agreed.", "Talk to them."), looked)
    assert told.message == "0 of 3 hospitals agreed." and told.hint.endswith("Talk to them.")
    assert ("a smaller --epsilon costs less (this look asked for 3)" in told.hint) == private
