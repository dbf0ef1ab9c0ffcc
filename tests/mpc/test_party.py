"""Dealer, A and B at their doorways: what is refused, what is used once, and that nothing else moves them."""

import os
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.mpc.programs import everything, small_images, small_weights
from tests.mpc.theatre import MODEL, Theatre, exchange, program_of

from primum.errors import ModelError, PeerError, Refused
from primum.mpc.dealer import Dealer
from primum.mpc.party import Party
from primum.mpc.program import Add, Relu, Wire
from primum.mpc.share import ROLES, Ratchet, Role, other


@pytest.fixture(scope="module")
def stage() -> Theatre:
    program = everything()
    return Theatre(program, small_weights(program))


def fresh_sides(stage: Theatre, images: int = 1) -> tuple[dict[Role, object], np.ndarray]:
    first = stage.number
    stage.dealt = [bytes(message) for message in stage.dealer.deal(first, images, stage.at_dealer)]
    sides = {role: stage.evaluate(role, first, images) for role in ROLES}
    return sides, np.zeros((images, *stage.program.wire("x").shape), np.uint64)  # type: ignore[return-value]


@pytest.mark.parametrize("images", [1, 2, 5])
def test_the_same_keys_make_the_same_transcript_on_any_number_of_threads(images: int) -> None:
    program = everything()
    transcripts, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            stage = Theatre(program, small_weights(program), b"s" * 32)
            outputs = [stage.infer(small_images(program, images)).tolist() for _ in range(2)]
            transcripts.append((stage.masked, stage.dealt, stage.sent, outputs))
    finally:
        torch.set_num_threads(before)
    assert transcripts[0] == transcripts[1] == transcripts[2]


def test_a_batch_is_its_images_one_by_one(stage: Theatre) -> None:
    """The dealer's messages and the openings of a batch are those of its numbers, side by side."""
    program = everything()
    images = small_images(program, 2)
    batch, single = (Theatre(program, small_weights(program), b"s" * 32) for _ in range(2))
    batch.dealt = [bytes(message) for message in batch.dealer.deal(1, 2, batch.at_dealer)]
    alone = [[bytes(message) for message in single.dealer.deal(n, 1, single.at_dealer)] for n in (1, 2)]
    assert batch.dealt == [
        b"".join(pair) for pair in zip(*alone, strict=True)
    ]  # whole bytes: 8 elements or 16 bits each
    assert batch.infer(images).shape == (2, 1, 1, 3)


@pytest.mark.parametrize("role", ROLES)
def test_two_images_under_one_number_are_refused_by_every_role(role: Role) -> None:
    program = everything()
    stage = Theatre(program, small_weights(program))
    stage.infer(small_images(program, 2))  # numbers 1 and 2
    for number in (1, 2):
        with pytest.raises(Refused, match="was used before"):
            stage.evaluate(role, number, 1)
        with pytest.raises(Refused, match="was used before"):
            stage.dealer.deal(number, 1, stage.at_dealer)


def test_numbers_are_taken_when_dealing_begins_not_when_it_is_read(stage: Theatre) -> None:
    first = stage.number
    left_lying = stage.dealer.deal(first, 1, stage.at_dealer)
    with pytest.raises(Refused, match="was used before"):
        stage.dealer.deal(first, 1, stage.at_dealer)
    assert len(list(left_lying)) > 0
    for ratchet in (*stage.with_dealer.values(), *stage.between.values()):
        ratchet.take(first)


def test_a_number_is_gone_even_where_the_material_was_refused(stage: Theatre) -> None:
    first = stage.number
    stage.dealt = [bytes(message) for message in stage.dealer.deal(first, 1, stage.at_dealer)]
    stage.evaluate("A", first, 1)
    good, stage.dealt = stage.dealt, []
    with pytest.raises(PeerError, match="less than was due"):
        stage.evaluate("B", first, 1)
    stage.dealt = good
    with pytest.raises(Refused, match="was used before"):
        stage.evaluate("B", first, 1)


def test_an_evaluation_serves_one_request(stage: Theatre) -> None:
    sides, zeros = fresh_sides(stage)
    runs = {role: sides[role].run(zeros) for role in ROLES}  # type: ignore[attr-defined]
    again = {role: sides[role].run(zeros) for role in ROLES}  # type: ignore[attr-defined]
    exchange(runs)
    for role in ROLES:
        for run in (again[role], sides[role].run(zeros)):  # type: ignore[attr-defined]
            with pytest.raises(PeerError, match="used before"):
                next(run)


@pytest.mark.parametrize("shape", [(1, 4, 4, 1), (2, 4, 4, 2), (4, 4, 2), (1, 32)])
def test_a_share_of_another_shape_is_an_error_and_the_masks_are_gone(stage: Theatre, shape: tuple[int, ...]) -> None:
    sides, zeros = fresh_sides(stage)
    with pytest.raises(ValueError, match="a share has shape"):
        next(sides["A"].run(np.zeros(shape, np.uint64)))  # type: ignore[attr-defined]
    with pytest.raises(PeerError, match="used before"):
        next(sides["A"].run(zeros))  # type: ignore[attr-defined]


def rounds(stage: Theatre) -> int:
    sides, zeros = fresh_sides(stage)
    sent, _ = exchange({role: sides[role].run(zeros) for role in ROLES})  # type: ignore[attr-defined]
    return len(sent["A"])


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("change", ["empty", "short", "long"])
def test_any_wrong_length_of_the_other_server_names_it_in_every_round(stage: Theatre, role: Role, change: str) -> None:
    for wrong in range(rounds(stage)):
        sides, zeros = fresh_sides(stage)
        runs = {r: sides[r].run(zeros) for r in ROLES}  # type: ignore[attr-defined]
        due = {r: next(runs[r]) for r in ROLES}
        for _ in range(wrong):
            due = {r: runs[r].send(due[other(r)]) for r in ROLES}
        good = bytes(due[other(role)])
        received = {"empty": b"", "short": good[:-1], "long": good + b"\0"}[change]
        with pytest.raises(PeerError, match=f"server {other(role)} sent something else than was due"):
            runs[role].send(received)
        with pytest.raises(StopIteration):
            next(runs[role])


def test_padding_of_a_message_is_checked() -> None:
    wires = (Wire("x", (1, 1, 1), 40, 0, 4), Wire("T", (1, 1, 1), 9, 0, 4), Wire("y", (1, 1, 1), 40, 0, 4))
    stage = Theatre(program_of(40, wires, (Add("a", ("x",), "T", (1,)), Relu("r", "T", "y"))))
    for wrong in range(3):
        first = stage.number
        stage.dealt = [bytes(message) for message in stage.dealer.deal(first, 1, stage.at_dealer)]
        runs = {role: stage.evaluate(role, first, 1).run(np.zeros((1, 1, 1, 1), np.uint64)) for role in ROLES}
        due = {r: next(runs[r]) for r in ROLES}
        for _ in range(wrong):
            due = {r: runs[r].send(due[other(r)]) for r in ROLES}
        received = bytes(due["B"])
        with pytest.raises(PeerError, match="padding"):
            runs["A"].send(received[:-1] + bytes([received[-1] | 0x80]))


def test_material_of_another_length_or_number_names_the_dealer() -> None:
    program = everything()
    stage = Theatre(program, small_weights(program))
    good = [bytes(message) for message in stage.dealer.deal(1, 1, stage.at_dealer)]
    wrong = {
        "less than was due": [good[:-1], []],
        "more than was due": [[*good, b""], [*good, good[-1]]],
        "the dealer sent something else": [
            [*good[:at], changed, *good[at + 1 :]]
            for at, message in enumerate(good)
            for changed in (message + b"\0", message[:-1], b"")
        ],
    }
    for match, faults in wrong.items():
        for messages in faults:
            with pytest.raises(PeerError, match=match):
                stage.parties["B"].evaluate(1, 1, Ratchet(b"k" * 32, 1), Ratchet(b"c" * 32, 1), messages)


def test_material_may_come_as_any_buffer_one_by_one(stage: Theatre) -> None:
    first = stage.number
    messages = (memoryview(bytes(message)) for message in stage.dealer.deal(first, 1, stage.at_dealer))
    evaluations = {"B": stage.parties["B"].evaluate(first, 1, stage.with_dealer["B"], stage.between["B"], messages)}
    evaluations["A"] = stage.evaluate("A", first, 1)
    stage.evaluations = evaluations  # type: ignore[assignment]
    stage.play({role: np.zeros((1, 4, 4, 2), np.uint64) for role in ROLES})


def test_each_operation_is_reported_when_it_is_done(stage: Theatre) -> None:
    first, seen = stage.number, []
    stage.dealt = [bytes(message) for message in stage.dealer.deal(first, 1, stage.at_dealer)]
    sides = {
        role: stage.parties[role].evaluate(
            first, 1, stage.with_dealer[role], stage.between[role], stage.dealt if role == "B" else (), seen.append
        )
        for role in ROLES
    }
    assert seen == [*stage.program.operations] * 2
    zeros, done = np.zeros((1, 4, 4, 2), np.uint64), []
    exchange({"A": sides["A"].run(zeros, done.append), "B": sides["B"].run(zeros)})
    assert done == [*stage.program.operations]


@pytest.mark.parametrize("change", [b"", b"x"])
def test_masked_weights_of_a_wrong_length_name_the_model_owner(stage: Theatre, change: bytes) -> None:
    wrong = stage.masked + change if change else stage.masked[:-1]
    for role in ROLES:
        with pytest.raises(PeerError, match="the model owner"):
            Party.make(role, stage.program, MODEL, wrong, os.urandom(32))


def test_a_program_that_cannot_be_run_is_refused_by_every_role(stage: Theatre) -> None:
    program = program_of(40, [Wire("x", (1, 1, 1), 39, 0, 4)], [])
    with pytest.raises(ModelError):
        Dealer.make(program, MODEL, {role: os.urandom(32) for role in ROLES})
    for role in ROLES:
        with pytest.raises(ModelError):
            Party.make(role, program, MODEL, b"", os.urandom(32))


@pytest.mark.parametrize("what", ["model", "program", "key", "weight seeds"])
def test_a_dealer_of_something_else_gives_noise_not_logits(what: str) -> None:
    """Streams are bound to the model and the program: another version's dealer cannot serve this one by accident."""
    program = everything()
    images = small_images(program, 40)
    right = Theatre(program, small_weights(program), b"s" * 32).infer(images)
    stage = Theatre(program, small_weights(program), b"s" * 32)
    seeds = {role: os.urandom(32) for role in ROLES}
    if what == "model":
        stage.dealer = replace(stage.dealer, model=b"other" + bytes(27))
    elif what == "program":
        finer = msgspec.structs.replace(program, answer_fraction=program.answer_fraction + 1)
        stage.dealer = replace(stage.dealer, program=finer)
    elif what == "key":
        stage.at_dealer = {role: Ratchet(os.urandom(32), 1) for role in ROLES}
    else:
        stage.dealer = Dealer.make(program, MODEL, seeds)
    wrong = stage.infer(images)
    half = 1 << (program.answer_bits - 1)
    assert np.abs(right).max() < half >> 4
    assert (np.abs(wrong) > half >> 4).mean() > 0.5


def test_nothing_secret_is_printed(stage: Theatre) -> None:
    sides, _ = fresh_sides(stage)
    serving = sides["A"]._serving()  # type: ignore[attr-defined]
    printed = [
        repr(thing) for thing in (*stage.parties.values(), stage.dealer, *sides.values(), *stage.between.values())
    ]
    printed += [repr(serving), *(repr(value) for value in serving.values.values())]
    for text in printed:
        assert "array" not in text and "uint" not in text and "Weights" not in text
        assert text.count("\\x") == 0


@settings(max_examples=30)
@given(st.data())
def test_bytes_of_the_right_length_never_raise(stage_for_garbage, data):  # type: ignore[no-untyped-def]
    """A server that lies sends anything of the right length: the answer is wrong, and no other exception comes."""
    stage = stage_for_garbage
    sides, zeros = fresh_sides(stage)
    run = sides["A"].run(zeros)
    message = next(run)
    with pytest.raises(StopIteration):
        while True:
            message = run.send(bytes([data.draw(st.integers(0, 255))]) * len(message))


@pytest.fixture(scope="module")
def stage_for_garbage() -> Theatre:
    program = everything()
    return Theatre(program, small_weights(program))
