"""Reshapes, permutations and repetitions that follow each other, as what they do to the axes together.

An axis is a list of parts, outermost first: parts of the source's axes, and copies (every index of what stands before
them, so often in a row). A reshape cuts the list anew, a permutation orders it, a repetition adds copies. What is left
at the end is written with as few nodes as it needs: copies first, in the source's order, then one permutation, then
one reshape. So five axes of a file, tiled and turned, become the nearest resizing that they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby, permutations, takewhile
from math import prod
from typing import NamedTuple

from primum.compiler.graph import Graph, Node, Permute, Repeat, Reshape, Shape

Movement = Reshape | Permute | Repeat
_COST = {Reshape: 1, Permute: 3, Repeat: 5}
_AXES: Shape = (0, 1, 2)


class Part(NamedTuple):
    """Part of an axis: its place in the source's order, None for copies; and its length."""

    place: tuple[int, ...] | None
    length: int


class Block(NamedTuple):
    """Part of a source's axis, and how often each of its indices stands in a row."""

    place: tuple[int, ...]
    length: int
    times: int


def move_once(graph: Graph) -> Graph:
    """Every chain of movements with as few nodes as what it does needs."""
    by_name, readers, shapes = {node.name: node for node in graph.nodes}, graph.readers, graph.shapes
    inner = {node.sources[0] for node in graph.nodes if isinstance(node, Movement)}
    written: dict[str, list[Node]] = {}
    gone, aliases = set[str](), dict[str, str]()
    for node in graph.nodes:
        if not isinstance(node, Movement) or (node.name in inner and readers[node.name] == 1):
            continue
        chain = _chain(node, by_name, readers)
        base = chain[0].sources[0]
        while chain:  # or at least what it begins with
            made = _written(chain, shapes[base], _namer(chain[-1].name, shapes))
            if made is not None and _cost(made) < _cost(chain) and len(made) <= len(chain):
                written[chain[-1].name] = made
                gone.update(one.name for one in takewhile(lambda one: readers[one.name] == 1, chain[-2::-1]))
                if not made:
                    aliases[chain[-1].name] = base
                break
            chain.pop()
    if not written:
        return graph
    nodes = list[Node]()
    for node in graph.nodes:
        for kept in written.get(node.name, [] if node.name in gone else [node]):
            sources = tuple(_followed(name, aliases) for name in kept.sources)
            nodes.append(kept if sources == kept.sources else replace(kept, sources=sources))
    return graph.with_nodes(nodes, _followed(graph.output, aliases))


def _followed(name: str, aliases: dict[str, str]) -> str:
    while name in aliases:
        name = aliases[name]
    return name


def _chain(node: Movement, by_name: dict[str, Node], readers: dict[str, int]) -> list[Movement]:
    """The movements that end in `node`, first to last; copies that somebody else reads too are not made twice."""
    found = [node]
    while True:
        before = by_name.get(found[0].sources[0])
        if not isinstance(before, Movement) or (isinstance(before, Repeat) and readers[before.name] > 1):
            return found
        found.insert(0, before)


def _cost(nodes: Sequence[Node]) -> int:
    return sum(_COST[type(node)] for node in nodes)


def _namer(last: str, taken: dict[str, Shape]) -> Callable[[], str]:
    """Names for the nodes before the one called `last`."""
    used = set(taken)

    def name() -> str:
        made = f"{last}~moved"
        while made in used:
            made += "'"
        used.add(made)
        return made

    return name


def _written(chain: list[Movement], shape: Shape, name: Callable[[], str]) -> list[Node] | None:
    """The fewest nodes for `chain` on a source of `shape`; None where it does more than these can say."""
    axes = _axes_after(chain, shape)
    if axes is None:
        return None
    blocks = _blocks([part for axis in axes for part in axis])
    ordered = sorted(blocks, key=lambda block: block.place)
    final = _shape_of(axes)
    made, shape = _copies(ordered, shape, chain[0].sources[0], name)
    source = made[-1].name if made else chain[0].sources[0]
    turned = _turned(blocks, ordered, shape, final)
    if turned is None:
        return None
    for kind, numbers in turned:
        made.append(Reshape(name(), (source,), numbers) if kind is Reshape else Permute(name(), (source,), numbers))
        source = made[-1].name
    if made:
        made[-1] = replace(made[-1], name=chain[-1].name)
    return made


def _axes_after(chain: list[Movement], shape: Shape) -> list[list[Part]] | None:
    """The parts of the three axes behind `chain`; None where a reshape cuts across them."""
    axes: list[list[Part]] | None = [[Part((at,), length)] if length > 1 else [] for at, length in enumerate(shape)]
    for node in chain:
        if axes is None:
            return None
        if isinstance(node, Reshape):
            axes = _cut_anew([part for axis in axes for part in axis], node.shape)
        elif isinstance(node, Permute):
            axes = [axes[axis] for axis in node.axes]
        else:
            down, across = ([Part(None, times)] if times > 1 else [] for times in node.times)
            axes = [axes[0], axes[1] + down, axes[2] + across]
    return axes


def _cut_anew(parts: list[Part], shape: Shape) -> list[list[Part]] | None:
    """`parts` in the same order as axes of `shape`."""
    waiting, axes = parts[::-1], list[list[Part]]()
    for length in shape:
        axis = list[Part]()
        while length > 1:
            place, size = waiting.pop()
            if length % size and size % length:
                return None
            if length < size:
                waiting.append(Part(None if place is None else (*place, 1), size // length))
                place, size = None if place is None else (*place, 0), length
            axis.append(Part(place, size))
            length //= size
        axes.append(axis)
    return axes


def _shape_of(axes: list[list[Part]]) -> Shape:
    one, two, three = (prod(part.length for part in axis) for axis in axes)
    return (one, two, three)


def _blocks(parts: list[Part]) -> list[Block]:
    """Copies belong to the part before them; where there is none, to one of length 1 before all."""
    found = list[Block]()
    for place, length in parts:
        if place is not None:
            found.append(Block(place, length, 1))
        elif found:
            found[-1] = found[-1]._replace(times=found[-1].times * length)
        else:
            found.append(Block((), 1, length))
    return found


def _copies(ordered: list[Block], shape: Shape, source: str, name: Callable[[], str]) -> tuple[list[Node], Shape]:
    """Nodes that make the copies of `ordered` from `source`, and the shape behind them."""
    reached, copies = 1, list[tuple[int, int]]()
    for block in ordered:
        reached *= block.length
        if block.times > 1:
            copies.append((reached, block.times))
    whole, made = reached, list[Node]()
    native = {whole: 1, shape[0] * shape[1]: 0}
    if copies and all(place in native for place, _ in copies):
        times = [1, 1]
        for place, count in copies:
            times[native[place]] = count
        down, across = times
        return [Repeat(name(), (source,), (down, across))], (shape[0], shape[1] * down, shape[2] * across)
    while copies:
        place, down = copies.pop()
        across = 1
        if place == whole and copies:  # the innermost two at once
            place, down, across = *copies.pop(), down
        if shape != (1, place, whole // place):
            made.append(Reshape(name(), (source,), (1, place, whole // place)))
            source = made[-1].name
        made.append(Repeat(name(), (source,), (down, across)))
        source, shape, whole = made[-1].name, (1, place * down, whole // place * across), whole * down * across
    return made, shape


_Step = tuple[type[Reshape] | type[Permute], Shape]


def _turned(blocks: list[Block], ordered: list[Block], shape: Shape, final: Shape) -> list[_Step] | None:
    """Steps from a value of `shape`, whose parts are `ordered`, to one of `final`, whose parts are `blocks`."""
    if blocks == ordered:
        return [] if shape == final else [(Reshape, final)]
    axes = _cut_anew([Part(block.place, block.length * block.times) for block in ordered], shape)
    places = [block.place for block in blocks if block.length * block.times > 1]
    fitting = list[tuple[Shape, Shape]]()
    for one, two, three in permutations(_AXES) if axes else ():
        if axes and [part.place for axis in (one, two, three) for part in axes[axis]] == places:
            fitting.append(((one, two, three), (shape[one], shape[two], shape[three])))
    if fitting:
        order, made = min(fitting, key=lambda found: found[1] != final)
        steps: list[_Step] = [(Permute, order), (Reshape, final)]
        return steps[: 1 + (made != final)]
    return _grouped(blocks, ordered, shape, final)


def _grouped(blocks: list[Block], ordered: list[Block], shape: Shape, final: Shape) -> list[_Step] | None:
    """The same where blocks that stay together are made one axis; None where more than three are moved."""
    rank = {block.place: at for at, block in enumerate(ordered)}
    runs = [
        [blocks[at] for _, at in run]
        for _, run in groupby(((rank[block.place] - at, at) for at, block in enumerate(blocks)), lambda pair: pair[0])
    ]
    if len(runs) > 3:
        return None
    sizes = [prod(block.length * block.times for block in run) for run in runs] + [1] * (3 - len(runs))
    firsts = [rank[run[0].place] for run in runs]
    order = sorted(range(len(runs)), key=lambda at: firsts[at])
    before = [sizes[at] for at in order] + [1] * (3 - len(runs))
    axes = [order.index(at) for at in range(len(runs))] + list(range(len(runs), 3))
    steps: list[_Step] = [(Reshape, _three(before)), (Permute, _three(axes)), (Reshape, final)]
    made = _three([before[axis] for axis in axes])
    return [steps[0]] * (shape != _three(before)) + [steps[1]] + [steps[2]] * (made != final)


def _three(numbers: list[int]) -> Shape:
    return (numbers[0], numbers[1], numbers[2])
