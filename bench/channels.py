"""How exact a MobileNetV2's logits are whose channels differ by powers of two; `scripts/bench channels`, a table, then JSON.

The published shape at 64 x 64 and half the width, 10 classes, weights drawn. Each channel is multiplied by 2^u, u uniform
in [-s, s], and the layers behind it divided: of the bottlenecks, which are added (`sums`, the same function in real
numbers), of the layers that end in ReLU6 (`clips`, another function: it cuts at 6 still), or of both. The largest error
of a logit over 16 images that the ranges are not from; once as the channels are, once brought near one magnitude.
"""

import json
from dataclasses import replace
from typing import Final
from unittest.mock import patch

import numpy as np

from bench.published import mobilenet
from primum.compiler.compiled import Compiled, Wish, compile_graph
from primum.compiler.equalise import groups_of, scaled
from primum.compiler.from_onnx import graph_of_bytes
from primum.compiler.graph import Clip, Graph
from primum.compiler.ranges import drawn_images
from primum.compiler.simplify import simplify
from primum.mpc.check import cost
from primum.rng import Stream

SPREADS: Final = (3.0, 6.0)
CHOSEN: Final = {"sums": (True, False), "clips": (False, True), "both": (True, True)}


def apart(graph: Graph, spread: float, sums: bool, clips: bool) -> Graph:
    """`graph` with channels times 2^u, undone behind."""
    groups = groups_of(graph)
    count = 1 + max(int(one.max()) for one in groups.values())
    factors = 2.0 ** ((2.0 * Stream.public("channels apart").uniform(count) - 1.0) * spread)
    clipped = {int(group) for node in graph.nodes if isinstance(node, Clip) for group in groups[node.name]}
    for group in range(count):
        if group == 0 or not (clips if group in clipped else sums):
            factors[group] = 1.0
    nodes = (scaled(node, factors, groups) for node in graph.nodes)
    return graph.with_nodes(replace(node, factors=None) if isinstance(node, Clip) else node for node in nodes)


def compiled(graph: Graph, near: bool) -> Compiled:
    """`graph` as it is, or with channels near one magnitude; however large the error."""
    wish = Wish(tolerance=1e9)
    if near:
        return compile_graph(graph, wish)
    with patch("primum.compiler.compiled.equalised", lambda graph, images: graph):
        return compile_graph(graph, wish)


def errors(graph: Graph) -> tuple[float, float, int, int]:
    """Errors as the channels are and near one magnitude; rounds and bytes, which are equal or this ends."""
    images = drawn_images(graph.shape, 16, "test")
    both = [compiled(graph, near) for near in (False, True)]
    before, after = (float(np.abs(made.fixed(images) - made.plain(images)).max()) for made in both)
    one, two = (cost(made.program) for made in both)
    if one != two:
        raise SystemExit(f"the costs differ: {one} and {two}")
    return before, after, one.rounds, one.sent_each_way + one.dealt_to_b


def main() -> None:
    graph = simplify(graph_of_bytes(mobilenet(64, 10, 2, np.float64).SerializeToString()))
    cases = {"alike": graph}
    for spread in SPREADS:
        cases |= {f"{name}, s = {spread:g}": apart(graph, spread, *chosen) for name, chosen in CHOSEN.items()}
    result = {}
    print("| channels | before | after | rounds | bytes each way and dealt |\n|---|---|---|---|---|")
    for name, one in cases.items():
        before, after, rounds, sent = errors(one)
        print(f"| {name} | {before:.2g} | {after:.2g} | {rounds} | {sent:,} |", flush=True)
        result[name] = {"before": float(f"{before:.3g}"), "after": float(f"{after:.3g}")}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
