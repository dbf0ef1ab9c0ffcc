"""A program as a whole: it travels, its digest names it, and any chain of operations is computed step by step right."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.mpc.plain import assert_every_step_is_right, wrapped
from tests.mpc.programs import chains, everything, small_images, small_weights
from tests.mpc.theatre import Theatre, program_of

from primum.mpc.check import check, cost, elements, material_sizes
from primum.mpc.program import Add, Operation, Program, Wire, sources, weight_shape, weight_size
from primum.ring import mask, to_signed
from primum.wire import decode, encode


@pytest.mark.parametrize("bits", [36, 40, 48, 64])
@pytest.mark.parametrize("images", [1, 3])
def test_every_kind_of_operation_in_one_program(bits: int, images: int) -> None:
    program = everything(bits)
    stage = Theatre(program, small_weights(program))
    outputs = stage.infer(small_images(program, images))
    assert_every_step_is_right(stage)
    plain = stage.value("z") >> np.int64(program.cut)
    assert set(wrapped(outputs - plain, program.answer_bits).reshape(-1).tolist()) <= {0, 1}


def test_that_program_has_every_kind() -> None:
    kinds = set(Operation.__args__)  # type: ignore[attr-defined]
    assert {type(step) for step in everything().operations} == kinds


@settings(max_examples=120)
@given(chains(), st.integers(1, 3), st.sampled_from(["small", "any"]))
def test_any_chain_of_operations(program: Program, images: int, size: str) -> None:
    check(program)
    stage = Theatre(program, small_weights(program))
    values = small_images(program, images)
    if size == "any":
        values = to_signed(values.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15) & mask(program.bits), program.bits)
    stage.infer(values)
    assert np.array_equal(stage.value(program.input), values)
    assert_every_step_is_right(stage)
    counted = cost(program, images)
    assert counted.rounds == len(stage.sent["A"])
    assert counted.sent_each_way == sum(map(len, stage.sent["A"])) == sum(map(len, stage.sent["B"]))
    assert counted.dealt_to_b == sum(map(len, stage.dealt))
    assert material_sizes(program, images) == tuple(map(len, stage.dealt))


def test_a_program_without_operations_gives_its_input_back() -> None:
    program = program_of(40, [Wire("x", (2, 3, 1), 40, 5, 8)], [], 3)
    outputs = Theatre(program).infer(np.arange(-12, 12).reshape(4, 2, 3, 1) * 4)
    assert np.array_equal(outputs, np.arange(-12, 12).reshape(4, 2, 3, 1))


def test_a_program_travels() -> None:
    program = everything()
    assert decode(encode(program), Program, "the model owner") == program


def test_a_digest_names_a_program() -> None:
    program = everything()
    digests = {program.digest(), everything(48).digest()}
    for change in ({"answer_fraction": 7}, {"output": "flat"}, {"operations": program.operations[:-1]}):
        digests.add(msgspec.structs.replace(program, **change).digest())
    assert len(digests) == 5 and all(len(digest) == 32 for digest in digests)


def test_sizes_of_weights_and_wires() -> None:
    program = everything()
    assert [weight_shape(program, layer) for layer in program.weighted] == [(3, 3, 2, 2), (1, 1, 0, 2), (1, 1, 16, 3)]
    assert weight_size(program) == 36 + 2 + 2 + 48 + 3
    assert elements(program) == sum(np.prod(wire.shape) for wire in program.wires)


def test_what_an_operation_reads() -> None:
    assert [sources(step) for step in everything().operations[10:13]] == [("r^", "s^"), ("p",), ("q", "e")]
    assert sources(Add("a", ("x", "x"), "y", (1, 1))) == ("x", "x")
