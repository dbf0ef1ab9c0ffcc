"""Defects found in PriMIA, deepee and Dopamine, each a test by name. Those of privacy stand in tests/dp."""

import ast
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.federation.playing import PATTERN, World, build, make_study, write_images
from tests.federation.test_recorded_bytes import (
    secrets,
    test_no_message_of_any_round_first_and_last_too_holds_a_vector_an_image_or_a_label,
)
from tests.federation.test_rounds import test_the_aggregate_reaches_the_hospitals
from tests.secagg.playing import build as build_aggregation

from primum.errors import DataError, StudyError
from primum.federation import coordinator, rounds, server_app
from primum.federation.messages import TRAIN, RoundOrder, VectorAnswer
from primum.federation.participant import Cohorts
from primum.imaging import PatientSource, deal
from primum.study import Study
from primum.tasks.plan import Plan

__all__ = [
    "secrets",
    "test_no_message_of_any_round_first_and_last_too_holds_a_vector_an_image_or_a_label",
    "test_the_aggregate_reaches_the_hospitals",
]

SOURCE = Path(__file__).resolve().parent.parent / "src" / "primum"
TREES = {path: ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}


@pytest.fixture
def three(tmp_path: Path) -> World:
    return build(tmp_path, 3)


def names(tree: ast.AST) -> set[str]:
    """Every dotted name that is used, as it is written, and every module that is imported."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            found.add(ast.unparse(node))
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


# -- section 5 ----------------------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(st.data())
def test_the_secagg_sum_equals_the_plain_sum_bit_for_bit_with_negative_and_large_values(data: st.DataObject) -> None:
    length, bits = 5, data.draw(st.sampled_from([8, 20, 32]))
    largest = (2 ** (bits - 1) - 1) // 3
    vectors = {
        place: np.array(
            data.draw(st.lists(st.integers(-largest, largest), min_size=length, max_size=length)), dtype=np.int64
        )
        for place in (1, 2, 3)
    }
    vectors[1][:2] = largest, -largest
    federation = build_aggregation(3, length=length, bits=bits)
    federation.begin()
    for _ in range(2):
        aggregate = federation.round(vectors)
        assert aggregate.total.tolist() == sum(vectors.values()).tolist()


def test_the_last_model_that_leaves_a_hospital_is_masked_like_the_first(three: World) -> None:
    three.train(make_study(three.members, rounds=2))
    sent = [answer.vector.vector for _, answer in three.wires.of(VectorAnswer)]
    assert len(sent) == len(set(sent)) == 9
    assert all(len(set(vector)) > 100 for vector in sent[:6]), "masked vectors look like random bytes"


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("privacy.epsilonn", "epsilon"),
        ("training.round", "rounds"),
        ("hospitals.may_vanishh", "may_vanish"),
        ("privcy.epsilon", "privacy"),
    ],
)
def test_unknown_keys_of_a_study_fail_with_the_nearest_one(key: str, near: str) -> None:
    section, name = key.split(".")
    text = make_study([bytes([place]) * 32 for place in range(3)]).text()
    header = f"[{section}]"
    text = text.replace(header, f"{header}\n{name} = 1") if header in text else f"{text}\n{header}\n{name} = 1\n"
    with pytest.raises(StudyError, match=rf"unknown key {section}") as caught:
        Study.parse(text, "study.toml")
    assert near in caught.value.hint


def test_the_test_images_of_the_scientist_are_never_used_to_choose_a_model() -> None:
    for module in (rounds, coordinator, server_app):
        assert "score_test" not in inspect.getsource(module)
    train = (SOURCE / "cli" / "train.py").read_text()
    assert train.index("scientist.fetch") < train.index("score_test(folder"), "the model is fixed before it is tested"


def test_the_images_that_hospitals_are_dealt_are_disjoint_by_patient(tmp_path: Path) -> None:
    write_images(tmp_path / "all", 100, 30)
    for image in list((tmp_path / "all").rglob("*_1.png")):
        image.with_name(image.name.replace("_1", "_2")).write_bytes(image.read_bytes()[:-1] + b"\0")
    folders = tuple(tmp_path / f"hospital {number}" for number in (1, 2, 3))
    deal(tmp_path / "all", folders, bytes(32), patients=PatientSource(PATTERN))
    patients = [{path.name.split("_")[0] for path in folder.rglob("*.png")} for folder in folders]
    assert sum(len(some) for some in patients) == len(set.union(*patients)) == 30


# -- sections 3.2 to 3.4 ------------------------------------------------------------------------------------------------


def test_evaluation_patients_are_disjoint_from_training_patients(three: World) -> None:
    plan = Plan(make_study(three.members))
    for hospital in three.hospitals.values():
        cohorts: Cohorts = hospital.process.images.cohorts(plan, 0.25)
        training, evaluation = set(cohorts.training.patients), set(cohorts.evaluation.patients)
        assert training
        assert not training & evaluation
        assert len(training | evaluation) == 12


def test_the_coordinator_never_draws_noise() -> None:
    for room in ("rounds", "server_app", "coordinator", "front", "superlink", "runs"):
        used = names(TREES[SOURCE / "federation" / f"{room}.py"])
        assert not {name for name in used if re.search(r"primum\.(rng|dp\.noise|dp\.sampling)|\bStream\b", name)}, room
        assert not {name for name in used if name.endswith((".share", ".uniform", ".normal"))}, room


def test_no_loss_and_no_class_counts_go_to_the_coordinator_in_clear() -> None:
    assert set(VectorAnswer.__struct_fields__) == {"vector", "local_seconds", "journal"}  # the last is a hash
    down = {
        "run",
        "what",
        "weights",
        "start",
        "settlements",
        "journal",
        "survey",
    }  # the last is a sum over all hospitals
    assert set(RoundOrder.__struct_fields__) == down


@pytest.mark.parametrize("path", TREES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_pickle_is_read_or_written(path: Path) -> None:
    forbidden = {"pickle", "torch.load", "torch.save", "joblib", "dill", "cloudpickle", "shelve", "marshal"}
    assert not names(TREES[path]) & forbidden
    assert "allow_pickle=True" not in path.read_text()


@pytest.mark.parametrize("path", TREES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_randomness_comes_from_rng_alone(path: Path) -> None:
    if path.name == "rng.py":
        return
    pattern = r"^(np|numpy)\.random|^random(\.|$)|^torch\.(rand|randn|randint|randperm|normal|manual_seed|bernoulli|Generator)$"
    assert not {name for name in names(TREES[path]) if re.search(pattern, name)}
    methods = {name.rsplit(".", 1)[-1] for name in names(TREES[path])}
    assert not methods & {"random_", "normal_", "uniform_", "bernoulli_", "exponential_"}


def test_every_round_starts_from_the_sum_of_the_round_before_in_all_hospitals(three: World) -> None:
    three.train(make_study(three.members, rounds=3))
    orders = [order.weights for _, order in three.wires.of(RoundOrder) if order.what == TRAIN]
    assert [len(set(orders[start : start + 3])) for start in (0, 3, 6)] == [1, 1, 1]
    assert len(set(orders)) == 3


def test_one_hospital_that_holds_more_patients_than_the_study_names_does_not_train(three: World) -> None:
    study = make_study(three.members, privacy={"patients": 4})
    hospital = three.hospitals[1]
    with pytest.raises(DataError, match="this hospital alone has more"):
        from primum.tasks.learner import Learner

        Learner(Plan(study), hospital.process.images.cohorts(Plan(study), 0.0).training)
