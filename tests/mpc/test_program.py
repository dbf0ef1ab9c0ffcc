"""Rings, ranges, precision and cost of a program."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.errors import ModelError
from primum.mpc.program import RINGS, SPARE_BITS, TOLERANCE, Linear, check, cost, linear_program, logit_error
from primum.wire import decode, encode


@given(st.integers(1, 45_000), st.integers(1, 10), st.floats(0, 4000))
def test_the_range_fits_with_spare_bits_and_the_error_bound_holds(dimension, outputs, norm):
    weight = np.zeros((outputs, dimension))
    weight[0, 0] = norm
    program = linear_program(weight)
    logits = program.wire("logits")
    assert norm <= 2.0**logits.magnitude
    assert 1 + SPARE_BITS + logits.magnitude + logits.fraction <= program.bits
    assert logit_error(program) <= TOLERANCE
    assert logit_error(linear_program(weight, coarse=True)) <= TOLERANCE + 2.0**-8 < 0.01


def test_a_model_whose_range_does_not_fit_is_refused_by_layer():
    with pytest.raises(ModelError, match="Layer `linear`"):
        linear_program(np.full((1, 45_000), 1e4))


def test_a_program_says_only_a_power_of_two_about_the_weights():
    one, two = np.array([[0.3, 0.7]]), np.array([[0.9, -0.1]])
    assert linear_program(one) == linear_program(two)
    assert linear_program(one).digest() == linear_program(two).digest()
    assert linear_program(one).digest() != linear_program(one, coarse=True).digest()


def test_a_program_travels():
    program = linear_program(np.ones((3, 100)))
    assert decode(encode(program), type(program), "the model owner") == program


CHANGES = {
    "ring too small": {"bits": 40},
    "ring unknown": {"bits": 63},
    "answer too fine": {"answer_fraction": 60},
    "answer negative": {"answer_fraction": -1},
    "no operation": {"operations": ()},
    "two operations": {"operations": (Linear("linear", "features", "logits", 17),) * 2},
    "wrong target": {"operations": (Linear("linear", "features", "features", 17),)},
    "unknown wire": {"input": "pixels"},
    "wrong fraction": {"operations": (Linear("linear", "features", "logits", 1),)},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_program_that_contradicts_itself_is_refused(change):
    program = linear_program(np.full((3, 45_000), 0.05))
    check(program)
    with pytest.raises(ModelError):
        check(msgspec.structs.replace(program, **change))


def test_cost_is_what_goes_over_the_wires(theatre, rows):
    stage = theatre.of(rows(3, 333) * 4)
    stage.infer(1, rows(5, 333))
    counted = cost(stage.program, 5)
    assert counted.rounds == 1
    assert counted.sent_each_way == len(stage.wire["opening A"]) == len(stage.wire["opening B"])
    assert counted.dealt_to_b == len(stage.wire["dealt"])
    assert counted.request_to_a == len(stage.wire["seed"])
    assert counted.request_to_b == len(stage.wire["share"])
    assert counted.answer == len(stage.wire["answer A"]) == len(stage.wire["answer B"])


def test_rings_are_whole_bytes():
    assert all(bits % 8 == 0 for bits in RINGS)
