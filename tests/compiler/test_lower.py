"""Programs: what is compared, opened and refused."""

from dataclasses import replace

import numpy as np
import pytest
from tests.compiler.agreement import images_for, largest, weights_like

from primum.compiler.compiled import Wish, compile_graph
from primum.compiler.emitter import Unfit
from primum.compiler.graph import Affine, Convolution, Curve, Graph, Multiply, Rectify, Sum
from primum.compiler.lower import flat_weights, lower
from primum.compiler.precision import precision_of
from primum.compiler.ranges import bounds, drawn_images
from primum.errors import ModelError
from primum.mpc.check import check
from primum.mpc.program import Cut, MaxPool, Open, Relu, weight_size

SHAPE = (2, 6, 6)


def conv(name, source, inputs, outputs, gain=1.0, kernel=3):
    weight = gain * weights_like((outputs, inputs, kernel, kernel), name)
    return Convolution(name, (source,), weight, 0.1 * weights_like((outputs,), name), padding=(kernel // 2,) * 4)


def residual(gain=1.0):
    """A convolution, a residual block and another convolution."""
    nodes = (
        conv("first", "image", 2, 4, gain),
        Rectify("a", ("first",)),
        conv("second", "a", 4, 4),
        Sum("sum", ("second", "a"), (1, 1)),
        Rectify("b", ("sum",)),
        conv("last", "b", 4, 3),
    )
    return Graph("image", SHAPE, nodes, "last")


def test_a_value_is_opened_once_and_compared_in_few_bits():
    compiled = compile_graph(residual())
    program = compiled.program
    check(program)
    opened = [step.source for step in program.operations if isinstance(step, Open)]
    assert len(opened) == len(set(opened)) == 3
    for step in program.operations:
        if isinstance(step, Relu):
            source = program.wire(step.source)
            assert source.bits == 1 + source.magnitude + source.fraction <= 20
    assert len([step for step in program.operations if isinstance(step, Cut)]) == 2
    assert compiled.weights.size == weight_size(program)
    assert compiled.weights.max() < 2**program.bits


def test_every_wire_holds_its_range():
    """Spare bits: no value of other images comes near its bound."""
    graph = residual()
    compiled = compile_graph(graph)
    seen = largest(compiled.graph, images_for(SHAPE, 16))
    for wire in compiled.program.wires:
        if wire.name in seen:
            assert seen[wire.name] < 2.0 ** (wire.magnitude - 1)


def test_a_program_says_only_powers_of_two_about_the_weights():
    one = residual()
    nodes = [replace(node, weight=node.weight * 1.01) if isinstance(node, Convolution) else node for node in one.nodes]
    two = one.with_nodes(nodes)
    ranges = largest(one, drawn_images(SHAPE, 8))
    programs = [lower(graph, precision_of(graph, ranges, 40))[0] for graph in (one, two)]
    assert programs[0] == programs[1]
    assert programs[0].digest() == programs[1].digest()


def test_a_range_that_does_not_fit_is_refused_by_layer():
    with pytest.raises(ModelError, match="layer `first`"):
        compile_graph(residual(1e5))


def test_a_larger_ring_is_taken_where_40_bits_do_not_hold():
    nodes = (conv("first", "image", 2, 2, 1e4), conv("last", "first", 2, 3, 1e-3))
    compiled = compile_graph(Graph("image", SHAPE, nodes, "last"))
    assert compiled.program.bits > 40
    assert compiled.agreement.error < 0.01


def test_a_model_that_does_not_agree_is_refused():
    nodes = (conv("first", "image", 2, 2, 20.0), Curve("bent", ("first",), "silu"), conv("last", "bent", 2, 3, 300.0))
    graph = Graph("image", SHAPE, nodes, "last")
    with pytest.raises(ModelError, match="differs by"):
        compile_graph(graph)
    assert compile_graph(graph, Wish(tolerance=2.0)).agreement.error > 0.01


def test_only_the_class_comes_out():
    graph = replace(residual(), ending="softmax")
    compiled, images = compile_graph(graph, Wish(only_class=True)), images_for(SHAPE, 8)
    fixed = compiled.fixed(images)
    assert compiled.ending == "argmax"
    assert set(np.unique(fixed)) == {0.0, 1.0}
    assert (fixed.sum(1) >= 1).all()
    logits = np.sort(compile_graph(graph).plain(images), 1)
    clear = logits[:, -1] - logits[:, -2] > 0.02
    assert clear.mean() > 0.9
    assert (fixed == compiled.plain(images)).all(1)[clear].all()
    assert [step.kernel for step in compiled.program.operations if isinstance(step, MaxPool)] == [(3, 1)]


def test_public_factors_are_exact_or_fine_and_weights_are_never_public():
    for scale, public in ((0.3, True), (0.3, False), (-1.0, True)):
        middle = Affine("scaled", ("b",), np.full(4, scale), np.full(4, 0.7), public)
        graph = residual()
        nodes = (*graph.nodes[:-1], middle, conv("last", "scaled", 4, 3))
        graph = graph.with_nodes(nodes)
        program, _ = lower(graph, precision_of(graph, largest(graph, drawn_images(SHAPE, 8)), 40))
        assert len(program.weighted) == 3 + (not public)


def test_products_of_large_values_are_refused():
    nodes = (
        conv("first", "image", 2, 2, 500.0),
        Multiply("product", ("first", "first")),
        conv("last", "product", 2, 2),
    )
    graph = Graph("image", SHAPE, nodes, "last")
    ranges = largest(graph, drawn_images(SHAPE, 8))
    with pytest.raises(Unfit, match="`product`"):
        lower(graph, precision_of(graph, ranges, 40))


def test_weights_are_flat_in_the_order_of_the_program():
    graph = residual()
    program, weights = lower(graph, precision_of(graph, largest(graph, drawn_images(SHAPE, 8)), 40))
    flat = flat_weights(program, weights)
    first = program.weighted[0]
    kernel = graph.nodes[0].weight.transpose(2, 3, 1, 0).ravel()
    expected = np.rint(np.ldexp(kernel, first.fraction)).astype(np.int64).view(np.uint64) & np.uint64(2**40 - 1)
    np.testing.assert_array_equal(flat[: kernel.size], expected)


def test_bounds_hold_for_every_image_and_need_no_spare_bits():
    graph = residual()
    limits = bounds(graph)
    images = np.concatenate([images_for(SHAPE, 16), np.zeros((1, *SHAPE)), np.ones((1, *SHAPE))])
    assert all(value <= limits[name] + 1e-12 for name, value in largest(graph, images).items())
    compiled = compile_graph(graph, Wish(bounded=True))
    assert compiled.agreement.error < 0.01
    assert compiled.ranges == limits


def test_drawn_images_are_public_images():
    one, two = drawn_images((3, 9, 5), 6), drawn_images((3, 9, 5), 6)
    np.testing.assert_array_equal(one, two)
    assert one.shape == (6, 3, 9, 5)
    assert one.min() == 0.0 and one.max() == 1.0
    assert not np.array_equal(one[0], one[2])


def test_inputs_that_are_no_images_are_refused():
    compiled = compile_graph(residual())
    with pytest.raises(ModelError.__base__, match="takes"):
        compiled.encode_input(np.zeros((1, 3, 6, 6)))
    with pytest.raises(ModelError.__base__, match="finite"):
        compiled.encode_input(np.full((1, *SHAPE), np.nan))


def test_weights_that_are_no_numbers_are_refused_by_layer():
    graph = residual()
    graph.nodes[2].weight[1, 1, 1, 1] = np.nan
    with pytest.raises(ModelError, match="`second` gives values that are not finite"):
        compile_graph(graph)


def test_a_layer_that_is_always_zero_is_no_trouble():
    graph = residual()
    graph.nodes[2].weight[:] = 0.0
    graph.nodes[2].bias[:] = 0.0
    assert compile_graph(graph).agreement.error < 0.01


def test_a_compiled_model_prints_no_weight():
    assert "weights" not in repr(compile_graph(residual()))
