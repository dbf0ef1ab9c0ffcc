"""What a look tells of masks: each patient in one bin of each table, and figures that are those of the masks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tasks.studies import study
from tests.tasks.test_segmentation import masks_study

from primum.dp import histogram
from primum.study import Evaluation, Study
from primum.tasks.measures import bins_of, edges, mean_of_classes
from primum.tasks.plan import Plan
from primum.tasks.segmentation import Segmentation, mask_figures
from primum.tasks.windows import Wholes

NAMES = ("none", "liver", "spleen")
ALL = ("dice", "volume_error", "surface_distance", "hausdorff_95")


def drawn(seed: int, patients: int = 5, side: int = 24) -> Wholes:
    """A true disc of each organ and the same, a little off, for each patient; the last one has no spleen."""
    choose = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]

    def mask(off: int, spleen: bool) -> torch.Tensor:
        result = np.zeros((side, side), np.uint8)
        for kind, (middle, radius) in enumerate(((6, 4), (17, 3)), start=1):
            if kind == 1 or spleen:
                inside = (rows - middle - off) ** 2 + (columns - middle) ** 2 <= (radius + choose.integers(2)) ** 2
                result[inside] = kind
        return torch.from_numpy(result)

    there = [place < patients - 1 for place in range(patients)]
    truth, found = ([mask(off * place % 3, one) for place, one in enumerate(there)] for off in (0, 1))
    names = tuple(f"p{place}" for place in range(patients))
    return Wholes(found, truth, names, names, ((0.7, 1.3),) * patients)


def counted(task: Segmentation, seen: Wholes) -> np.ndarray:
    """The table of one hospital, as a look has it."""
    return histogram.counts(*task.cells(seen), task.table).reshape(task.table)


@given(st.integers(0, 40), st.booleans())
def test_exact_figures_of_a_look_are_those_of_the_masks(seed: int, millimetres: bool) -> None:
    seen = drawn(seed)
    task = Segmentation(NAMES, measures=ALL, millimetres=millimetres, exact=True)
    told = task.figures(counted(task, seen), 0.0)
    where = (seen.files, seen.spacing) if millimetres else ()
    single = mask_figures(seen.found, seen.truth, NAMES, seen.patients, *where)
    assert told["surface_unit"] == single["surface_unit"] == ("mm" if millimetres else "pixels")
    assert told["dice"] == pytest.approx(single["dice"], abs=1 / 512)
    for name in NAMES[1:]:
        figures, expected = told["by_class"][name], single["by_class"][name]
        assert figures["volume_error"] == pytest.approx(expected["volume_error"], abs=1 / 250)
        for border in ALL[2:]:
            assert figures[border] == pytest.approx(expected[border], abs=0.2)
            assert figures[f"{border}_low"] <= expected[border] <= figures[f"{border}_high"]


@given(st.sampled_from(ALL), st.integers(4, 300), st.floats(5, 500), st.floats(-2, 600))
def test_a_value_is_in_the_bin_that_holds_it(measure: str, bins: int, reach: float, value: float) -> None:
    borders = edges(measure, bins, reach)
    place = bins_of(np.array([value, np.nan]), measure, bins, reach)
    assert len(borders) == bins + (measure == "dice") and place[1] == bins - 1
    inside = min(max(value, borders[0]), borders[-1])
    assert borders[place[0]] <= inside <= borders[place[0] + 1]


def test_who_has_no_such_figure_counts_in_no_mean() -> None:
    assert mean_of_classes(np.array([[1.0, np.nan], [np.nan, np.nan], [1.0, 3.0]]))[[0, 2]].tolist() == [1.0, 2.0]
    seen = drawn(3)
    nothing = Wholes([torch.zeros_like(one) for one in seen.found], seen.truth, seen.patients, (), ())
    task = Segmentation(NAMES, measures=ALL, exact=True)
    told = task.figures(counted(task, nothing), 0.0)
    assert "surface_distance" not in told and told["volume_error"] == pytest.approx(-1, abs=0.01)


def test_with_privacy_a_patient_is_in_one_bin_of_each_table_and_noise_is_made_for_that() -> None:
    asked = {"measures": ("dice", "volume_error", "surface_distance")}
    plan, alone = Plan(masks_study(evaluation=asked)), Plan(masks_study())
    assert plan.task.table == (3, 1, 16) and alone.task.table == (1, 1, 16)
    assert plan.evaluation.sensitivity == pytest.approx(np.sqrt(3)) and alone.evaluation.sensitivity == 1
    seen = drawn(5)
    found, truth = ([*masks[:4], masks[0]] for masks in (seen.found, seen.truth))
    two = Wholes(found, truth, (*seen.patients[:4], "p0"), (), ())
    task = Segmentation(NAMES, measures=asked["measures"])
    rows, columns = task.cells(two)
    assert rows.shape == columns.shape == (4, 3)


def test_noise_widens_every_interval() -> None:
    seen = drawn(1, patients=9)
    task = Segmentation(NAMES, measures=ALL)
    table = counted(task, seen) * 20
    quiet, loud = task.figures(table, 0.0), task.figures(table, 4.0)
    for measure in ALL:
        widths = [told[f"{measure}_high"] - told[f"{measure}_low"] for told in (quiet, loud)]
        assert widths[0] < widths[1]


def test_borders_in_millimetres_need_images_that_say_theirs() -> None:
    seen = drawn(2)
    with pytest.raises(ValueError, match="millimetres"):
        Segmentation(NAMES, measures=ALL, millimetres=True).cells(
            Wholes(seen.found, seen.truth, seen.patients, seen.files, ())
        )


@pytest.mark.parametrize(
    ("measures", "named"),
    [(("surface_distance",), 'begin with "dice"'), (("dice", "dice"), "name each once")],
)
def test_measures_that_do_not_fit_are_named(measures: tuple[str, ...], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        masks_study(evaluation={"measures": measures})


def test_measures_are_of_masks() -> None:
    with pytest.raises(ValueError, match=r"evaluation\.measures are of masks"):
        Study.model_validate({**study().model_dump(exclude_none=True), "evaluation": {"measures": ("dice",)}})


def test_points_of_a_curve_are_of_two_classes() -> None:
    with pytest.raises(ValueError, match="are of two classes"):
        masks_study(evaluation={"at_specificity": (0.9,)})


def test_without_noise_all_are_told_and_an_evaluation_keeps_the_choice() -> None:
    assert masks_study(privacy=None).measures == ALL
    assert masks_study(privacy=None, evaluation=Evaluation(measures=("dice",))).measures == ("dice",)
