"""Programs that are refused, by name; garbage; and what every operation costs, counted on the wire."""

from typing import Any

import msgspec
import pytest
from hypothesis import event, given, note, settings
from hypothesis import strategies as st
from tests.mpc.plain import assert_every_step_is_right
from tests.mpc.programs import chains, everything, small_images, small_weights
from tests.mpc.theatre import Theatre, program_of

from primum.errors import ModelError
from primum.kernels.words import packed_size
from primum.mpc import check as check_module
from primum.mpc.check import LARGEST_WIRE, MOST_OPERATIONS, check, cost, elements, material_sizes, step_cost
from primum.mpc.program import (
    Add,
    Bias,
    Concatenate,
    Convolution,
    Cut,
    Extend,
    Flatten,
    Interpolate,
    MaxPool,
    Multiply,
    Open,
    Operation,
    Pad,
    Program,
    Relu,
    Repeat,
    Reshape,
    Scale,
    Sign,
    Slice,
    SumPool,
    Transpose,
    Wire,
    weight_size,
)
from primum.mpc.rule import RULES, Wires
from primum.ring import mask, to_signed
from primum.rng import Stream
from primum.wire import decode, encode


@pytest.mark.parametrize("images", [1, 2, 3, 7])
@pytest.mark.parametrize("bits", [36, 37, 40])
def test_cost_is_what_goes_over_the_wires(images: int, bits: int) -> None:
    program = everything(bits)
    stage = Theatre(program, small_weights(program))
    stage.infer(small_images(program, images))
    counted, wires = cost(program, images), Wires(program)
    assert counted.rounds == len(stage.sent["A"]) == len(stage.sent["B"])
    assert counted.sent_each_way == sum(map(len, stage.sent["A"])) == sum(map(len, stage.sent["B"]))
    assert counted.dealt_to_b == sum(map(len, stage.dealt))
    assert material_sizes(program, images) == tuple(map(len, stage.dealt))
    assert counted.request_to_a == 32
    assert counted.request_to_b == packed_size(images * 32, bits)
    assert counted.answer == packed_size(images * 3, program.answer_bits)
    sent, dealt = iter(stage.sent["A"]), iter(stage.dealt)
    for step in program.operations:
        one = step_cost(Wires(program), step, images)
        assert one.rounds == len(RULES[type(step)].sent(step, wires))
        assert one.sent_each_way == sum(len(next(sent)) for _ in range(one.rounds))
        assert one.dealt_to_b == sum(len(next(dealt)) for _ in RULES[type(step)].dealt(step, wires))
    assert next(sent, None) is None and next(dealt, None) is None


def alone(step: Operation, source: int, target: int) -> Program:
    """The wires `s` and `y` of eight elements, in rings of these bits; of a max, eight pairs."""
    shape = (1, 16, 1) if isinstance(step, MaxPool) else (1, 8, 1)
    return program_of(40, (Wire("s", shape, source, 0, 4), Wire("y", (1, 8, 1), target, 0, 4)), (step,))


def test_the_table_of_costs_is_the_one_in_the_docstring() -> None:
    """With eight elements, bytes are bits an element."""
    large, t, m = 40, 20, 21
    measured = {
        "Open": alone(Open("k", "s", "y"), large, large),
        "Convolution, of an output": alone(Convolution("k", "s", "y", 0, (1, 1)), large, large),
        "Multiply": alone(Multiply("k", "s", "s", "y"), large, large),
        "Bias": alone(Bias("k", "s", "y"), large, large),
        "Cut": alone(Cut("k", "s", "y"), large, t),
        "Relu": alone(Relu("k", "s", "y"), t, large),
        "Sign": alone(Sign("k", "s", "y"), t, large),
        "Extend": alone(Extend("k", "s", "y"), t, large),
        "MaxPool, of a pair": alone(MaxPool("k", "s", "y", (1, 2), (1, 2)), m, m),
        "Add to Interpolate": alone(Add("k", ("s",), "y", (1,)), large, large),
    }
    lines = ["| operation | rounds | bits each way | bits dealt to B |", "|---|---|---|---|"]
    for name, program in measured.items():
        found = step_cost(Wires(program), program.operations[0])
        lines.append(f"| {name} | {found.rounds} | {found.sent_each_way} | {found.dealt_to_b} |")
    assert "\n".join(lines) in (check_module.__doc__ or "")


def test_local_operations_cost_nothing() -> None:
    program = everything()
    local = (Add, Bias, Concatenate, Cut, Flatten, Interpolate, Pad, Repeat, Reshape, Scale, Slice, SumPool, Transpose)
    for step in program.operations:
        found = step_cost(Wires(program), step, 3)
        assert (found.rounds == found.sent_each_way == found.dealt_to_b == 0) == isinstance(step, local)


def changed(program: Program, place: int | str, **fields: Any) -> Program:
    """With other fields of the operation at `place`, or of the wire of that name."""
    if isinstance(place, str):
        wires = tuple(msgspec.structs.replace(wire, **fields) if wire.name == place else wire for wire in program.wires)
        return msgspec.structs.replace(program, wires=wires)
    steps = list(program.operations)
    steps[place] = msgspec.structs.replace(steps[place], **fields)
    return msgspec.structs.replace(program, operations=tuple(steps))


def place_of(kind: type[Operation]) -> int:
    return next(place for place, step in enumerate(everything().operations) if isinstance(step, kind))


WHOLE: dict[str, dict[str, Any]] = {
    "a ring of 7 bits": {"bits": 7},
    "a ring of 65 bits": {"bits": 65},
    "another ring than the input's": {"bits": 41},
    "an input that is missing": {"input": "pixels"},
    "an output that is missing": {"output": "logits"},
    "an input that is computed": {"input": "x^"},
    "two wires of one name": {"wires": (*everything().wires, everything().wires[0])},
    "a wire that is missing": {"wires": everything().wires[1:]},
    "an answer finer than the output": {"answer_fraction": 16},
    "an answer of no bits": {"answer_fraction": -25},
    "no operation": {"operations": ()},
    "operations in another order": {"operations": everything().operations[::-1]},
    "an operation twice": {"operations": everything().operations * 2},
    "too many wires": {
        "wires": (*everything().wires, *(Wire(f"w{i}", (1, 1, 1), 40, 0, 4) for i in range(MOST_OPERATIONS)))
    },
    "too many operations": {"operations": everything().operations * (MOST_OPERATIONS // 22 + 1)},
}
STEPS: dict[str, tuple[type[Operation], dict[str, Any]]] = {
    "a source that is missing": (Relu, {"source": "nothing"}),
    "a source of later": (Cut, {"source": "z"}),
    "a target that is missing": (Relu, {"target": "nothing"}),
    "a target that is there": (Relu, {"target": "x"}),
    "a name that is taken": (Relu, {"name": "cut"}),
    "a share that is convolved": (Convolution, {"source": "x"}),
    "a share that is multiplied": (Multiply, {"left": "r"}),
    "another fraction of the weights": (Convolution, {"fraction": 5}),
    "no groups": (Convolution, {"groups": 0}),
    "groups that do not divide": (Convolution, {"groups": 3}),
    "no stride": (Convolution, {"stride": (0, 1)}),
    "no kernel": (Convolution, {"kernel": (0, 3)}),
    "no dilation": (Convolution, {"dilation": (1, 0)}),
    "a stride backwards": (Convolution, {"stride": (-1, 1)}),
    "padding inwards": (Convolution, {"padding": (-1, 1, 1, 1)}),
    "a kernel beyond the image": (Convolution, {"kernel": (7, 7)}),
    "padding without end": (Convolution, {"padding": (1 << 16,) * 4, "stride": (1 << 16, 1 << 16)}),
    "a window without end": (MaxPool, {"padding": (1 << 16,) * 4, "kernel": (1 << 16, 1 << 16)}),
    "a window of another size": (MaxPool, {"kernel": (3, 2)}),
    "a comparison of large values": (Relu, {"source": "y"}),
    "a sign of large values": (Sign, {"source": "y"}),
    "a maximum of large values": (MaxPool, {"source": "y"}),
    "factors for other channels": (Scale, {"factors": (1, 2, 3)}),
    "a fraction backwards": (Scale, {"fraction": -1}),
    "factors for other sources": (Add, {"factors": (1,)}),
    "nothing to add": (Add, {"sources": (), "factors": ()}),
    "nothing side by side": (Concatenate, {"sources": ()}),
    "a fourth axis": (Concatenate, {"axis": 3}),
    "an axis backwards": (Concatenate, {"axis": -1}),
    "a slice beyond the end": (Slice, {"start": (2, 1, 0)}),
    "a slice before the start": (Slice, {"start": (-1, 1, 0)}),
    "a slice that stands still": (Slice, {"step": (0, 1, 1)}),
    "gaps backwards": (Pad, {"gaps": (-1, 0)}),
    "less padding": (Pad, {"padding": (1, 1, 1, 0)}),
    "no repetition": (Repeat, {"times": (0, 1)}),
    "repetition backwards": (Repeat, {"times": (-2, -1)}),
    "weights of another fraction": (Interpolate, {"fraction": 3}),
    "an axis twice": (Transpose, {"axes": (2, 0, 0)}),
    "an axis that is not there": (Transpose, {"axes": (3, 0, 1)}),
    "axes in another order": (Transpose, {"axes": (0, 1, 2)}),
    "a flat wire of another size": (Flatten, {"source": "x"}),
}
WIRES: dict[str, tuple[str, dict[str, Any]]] = {
    "no height": ("T", {"shape": (0, 4, 2)}),
    "a height backwards": ("x", {"shape": (-4, -4, 2)}),
    "no bits": ("T", {"bits": 0}),
    "too many bits": ("x", {"bits": 65}),
    "a bias in another ring": ("b", {"bits": 11}),
    "a bias of another fraction": ("b", {"fraction": 5}),
    "a comparison in 4 bits": ("m", {"bits": 4}),
    "a cut to more bits than there are": ("T", {"bits": 37}),
    "a cut to more than 32 bits": ("T", {"bits": 33, "fraction": 9}),
    "a cut upwards": ("T", {"fraction": 11}),
    "a ReLU to a smaller ring": ("r", {"bits": 10}),
    "a ReLU to another fraction": ("r", {"fraction": 7}),
    "a sign with a fraction": ("s", {"fraction": 1}),
    "an extension to a smaller ring": ("e", {"bits": 9}),
    "an opening in another ring": ("x^", {"bits": 41}),
    "a product of another fraction": ("p", {"fraction": 7}),
    "a sum in a larger ring": ("a", {"bits": 41}),
    "a maximum in another ring": ("m", {"bits": 11}),
    "a magnitude beyond any ring": ("q", {"magnitude": 65}),
    "a channel more": ("z", {"shape": (1, 2, 3)}),
}


@pytest.mark.parametrize("change", WHOLE.values(), ids=WHOLE.keys())
def test_a_program_that_contradicts_itself_is_refused(change: dict[str, Any]) -> None:
    check(everything())
    with pytest.raises(ModelError):
        check(msgspec.structs.replace(everything(), **change))


@pytest.mark.parametrize(("kind", "fields"), STEPS.values(), ids=STEPS.keys())
def test_an_operation_that_does_not_fit_is_refused(kind: type[Operation], fields: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        check(changed(everything(), place_of(kind), **fields))


@pytest.mark.parametrize(("name", "fields"), WIRES.values(), ids=WIRES.keys())
def test_a_wire_that_does_not_fit_is_refused(name: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        check(changed(everything(), name, **fields))


def test_the_operation_is_named() -> None:
    with pytest.raises(ModelError, match="Operation `relu`"):
        check(changed(everything(), place_of(Relu), source="y"))
    with pytest.raises(ModelError, match="Wire `T`"):
        check(changed(everything(), "T", bits=0))


@pytest.mark.parametrize("shape", [(1 << 13, 1 << 13, 2), (1, 1, LARGEST_WIRE + 1), (1 << 62, 1 << 62, 1 << 62)])
def test_a_wire_too_large_for_memory_is_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ModelError, match="Wire `x`"):
        check(program_of(40, [Wire("x", shape, 40, 0, 4)], []))
    check(program_of(40, [Wire("x", (1, 1, LARGEST_WIRE), 40, 0, 4)], []))


LARGE = 1 << 20
TOO_LARGE = {
    "too many weights": (Convolution("k", "s", "y", 0, (1, 1)), (1, 1, LARGE), (1, 1, 1 << 9), 40),
    "padding that fills memory": (
        SumPool("k", "s", "y", (1, 1), (1 << 16,) * 2, (1 << 15,) * 4),
        (1, 1, 1),
        (2, 2, 1),
        40,
    ),
    "too many pairs": (MaxPool("k", "s", "y", (1, 1 << 15), (1, 1)), (1, 1 << 16, 1), (1, (1 << 15) + 1, 1), 20),
    "a resized wire halfway": (Interpolate("k", "s", "y", 0), (1, LARGE, 1), (LARGE, 1, 1), 40),
}


@pytest.mark.parametrize(("step", "source", "target", "bits"), TOO_LARGE.values(), ids=TOO_LARGE.keys())
def test_work_too_large_for_memory_is_refused(step, source, target, bits) -> None:  # type: ignore[no-untyped-def]
    wires = (Wire("x", source, 40, 0, 4), Wire("s", source, bits, 0, 4), Wire("y", target, bits, 0, 4))
    first = Open("o", "x", "s") if bits == 40 else Add("o", ("x",), "s", (1,))
    with pytest.raises(ModelError):
        check(program_of(40, wires, (first, step)))


def test_an_extension_of_one_bit_is_refused() -> None:
    for bits, right in ((1, False), (2, True), (32, True), (33, False)):
        wires = (Wire("x", (1, 1, 1), 40, 0, 4), Wire("T", (1, 1, 1), bits, 0, 4), Wire("y", (1, 1, 1), 40, 0, 4))
        program = program_of(40, wires, (Add("a", ("x",), "T", (1,)), Extend("e", "T", "y")))
        if right:
            check(program)
        else:
            with pytest.raises(ModelError):
                check(program)


NUMBERS = st.sampled_from(
    [0, 1, -1, 2, 3, 5, 21, 22, 32, 33, 64, 65, 1 << 16, 1 << 26, 1 << 31, (1 << 63) - 1, -(1 << 63)]
)


class Garbler:
    """A good program with something changed in it."""

    def __init__(self, draw: Any, program: Program) -> None:
        self.draw, self.program = draw, program
        self.names = st.sampled_from([*(wire.name for wire in program.wires), "nothing"])

    def value(self, was: Any, name: str = "") -> Any:
        """Another value of the same type."""
        if isinstance(was, bool):
            return not was
        if isinstance(was, int):
            return self.draw(NUMBERS | st.sampled_from([was + 1, was - 1, 2 * was, -was]))
        if isinstance(was, str):
            return self.draw(self.names)
        if isinstance(was, tuple) and was:
            at = self.draw(st.integers(0, len(was) - 1))
            return (*was[:at], self.value(was[at]), *was[at + 1 :])
        return was

    def struct(self, was: Any) -> Any:
        field = self.draw(st.sampled_from(was.__struct_fields__))
        return msgspec.structs.replace(was, **{field: self.value(getattr(was, field))})

    def listed(self, was: tuple[Any, ...]) -> tuple[Any, ...]:
        """One changed, dropped, repeated, or two swapped; an operation may become one of another kind."""
        if not was:
            return was
        at, to = (self.draw(st.integers(0, len(was) - 1)) for _ in range(2))
        items = list(was)
        match self.draw(st.sampled_from(["change", "change", "change", "drop", "repeat", "swap", "kind"])):
            case "drop":
                del items[at]
            case "repeat":
                items.insert(to, items[at])
            case "swap":
                items[at], items[to] = items[to], items[at]
            case "kind":
                items[at] = self.kind(items[at])
            case _:
                items[at] = self.struct(items[at])
        return tuple(items)

    def kind(self, was: Any) -> Any:
        if isinstance(was, Wire):
            return was
        kinds = [Open, Cut, Relu, Sign, Extend, Flatten, Reshape]
        source = was.source if hasattr(was, "source") else self.draw(self.names)
        return self.draw(st.sampled_from(kinds))(was.name, source, was.target)

    def garbled(self) -> Program:
        program = self.program
        for _ in range(self.draw(st.integers(1, 3))):
            field = self.draw(st.sampled_from(["wires", "operations", "operations", "whole"]))
            if field == "whole":
                field = self.draw(st.sampled_from(["bits", "input", "output", "answer_fraction"]))
                program = msgspec.structs.replace(program, **{field: self.value(getattr(program, field))})
            else:
                program = msgspec.structs.replace(program, **{field: self.listed(getattr(program, field))})
        return program


@st.composite
def garbage(draw: st.DrawFn) -> Program:
    return Garbler(draw, draw(st.just(everything()) | chains())).garbled()


def is_small(program: Program) -> bool:
    """Whether it can be run in a test."""
    wires = Wires(program)
    numbers = [n for step in program.operations for name in ("kernel", "padding") for n in getattr(step, name, ())]
    material = [count for step in program.operations for count, _ in RULES[type(step)].dealt(step, wires)]
    return elements(program) + weight_size(program) + sum(material) < 20_000 and max(numbers, default=0) < 50


@settings(max_examples=300)
@given(garbage())
def test_garbage_is_refused_or_computed_right(program: Program) -> None:
    """Never another exception."""
    note(str(msgspec.to_builtins(program)))
    try:
        check(program)
    except ModelError:
        event("refused")
        return
    assert decode(encode(program), Program, "the model owner") == program
    if not is_small(program):
        event("too large for a test")
        return
    event("computed")
    stage = Theatre(program, small_weights(program))
    shape = (2, *program.wire(program.input).shape)
    stage.infer(to_signed(Stream.public("garbage").uint64(shape) & mask(program.bits), program.bits))
    assert_every_step_is_right(stage)
    assert cost(program, 2).sent_each_way == sum(map(len, stage.sent["A"]))
