"""The whole protocol in one process: what it gives is what the parties give, what it counts is what the check says."""

import itertools

import msgspec
import numpy as np
import pytest
from tests.mpc.programs import everything, small_images, small_weights
from tests.mpc.theatre import Theatre, as_ring

from primum.errors import ModelError
from primum.mpc.check import cost
from primum.mpc.rehearsal import Rehearsal
from primum.ring import mask, to_signed

STEPS = 6
"""How far two runs of one image may lie apart, in units of the answer: each rounds by its own masks."""


@pytest.fixture(scope="module")
def rehearsal() -> Rehearsal:
    program, ticks = everything(), itertools.count()
    return Rehearsal(program, as_ring(small_weights(program)), lambda: float(next(ticks)))


@pytest.mark.parametrize("images", [1, 3])
def test_outputs_are_those_of_the_three_roles(rehearsal: Rehearsal, images: int) -> None:
    program = everything()
    values = small_images(program, images)
    outputs, _ = rehearsal.run(as_ring(values))
    assert outputs.shape == (images, *program.wire(program.output).shape) and outputs.max() <= mask(program.answer_bits)
    expected = Theatre(program, small_weights(program)).infer(values)
    assert np.abs(to_signed(outputs, program.answer_bits) - expected).max() <= STEPS * (
        1 + np.abs(expected).max() // 64
    )


def test_bytes_and_rounds_are_those_of_the_check(rehearsal: Rehearsal) -> None:
    program = everything()
    for images in (1, 2):
        _, timing = rehearsal.run(as_ring(small_images(program, images)))
        price = cost(program, images)
        assert (len(timing.sent_each_way), sum(timing.sent_each_way)) == (price.rounds, price.sent_each_way)


def test_every_operation_is_timed_and_no_time_counts_twice(rehearsal: Rehearsal) -> None:
    """The clock ticks once at every reading."""
    program = everything()
    _, timing = rehearsal.run(as_ring(small_images(program, 1)))
    names = {step.name for step in program.operations}
    assert set(timing.running) == set(timing.preparing) == names
    assert set(timing.dealing) <= names and all(value > 0 for value in timing.dealing.values())
    assert all(value >= 0 for value in (*timing.running.values(), *timing.preparing.values()))


def test_every_run_takes_new_numbers(rehearsal: Rehearsal) -> None:
    """The same image again: other masks, so another rounding now and then, and never an error about a number."""
    values = as_ring(small_images(everything(), 2))
    first = [rehearsal.run(values)[0] for _ in range(3)]
    assert all(one.shape == first[0].shape for one in first)


def test_without_a_clock_no_time_is_told() -> None:
    program = everything()
    _, timing = Rehearsal(program, as_ring(small_weights(program))).run(as_ring(small_images(program, 1)))
    assert not any((*timing.running.values(), *timing.preparing.values(), *timing.dealing.values()))


def test_a_program_that_cannot_be_run_is_refused() -> None:
    program = everything()
    with pytest.raises(ModelError):
        Rehearsal(msgspec.structs.replace(program, bits=7), as_ring(small_weights(program)))
