"""Sizes of pruned axes that the model reads at run time (Shape) and uses where no rule expects them."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

import numpy as np
import onnx_ir as ir

from onnxprune.graph import bodies, every_node
from onnxprune.labels import Label, Labels
from onnxprune.op_rules.facts import Fact, Size
from onnxprune.op_rules.registry import hold, labelled_axis
from onnxprune.trace import ARITHMETIC, PASSING, Origin, Trace

REAL = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}
CARRYING = {*PASSING, *ARITHMETIC, "Concat", "Gather", "Slice", "Shape", "Where"}
COMPARING = ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")


def loose_sizes(
    model: ir.Model, trace: Trace, labelled: Mapping[ir.Value, Labels], settled: Collection[tuple[ir.Node, int, int]]
) -> list[Fact]:
    """Hold the axes whose size ends up in anything but a shape that a rule settled: a Range, an output.

    Where it becomes a real number (attention's 1 / √d) it keeps the value that it has.
    """
    nodes = list(every_node(model))
    if not any(node.op_type == "Shape" and labelled.get(value) for node in nodes for value in node.inputs if value):
        return []
    seen: dict[tuple[ir.Node, int], set[int]] = defaultdict(set)
    for node, index, element in settled:
        seen[node, index].add(element)
    found: list[Fact] = []
    for node in nodes:
        for index, value in enumerate(node.inputs):
            if value is not None and not (_carries(node, index, trace) or _compared_with_none(node, index, trace)):
                loose = _sizes_in(value, seen.get((node, index), set()), trace, labelled)
                found += _pinned(node, index, loose) or _held(loose, node.name or node.op_type)
        for value in (value for body in bodies(node) for value in body.outputs):
            found += _held(_sizes_in(value, (), trace, labelled), f"the body of {node.name}")
    for value in model.graph.outputs:
        found += _held(_sizes_in(value, (), trace, labelled), "the outputs of the model")
    return found


def _carries(node: ir.Node, index: int, trace: Trace) -> bool:
    """Whether a node only hands the integers at this input on, to readers that are looked at in turn."""
    numbers = trace.integers(node.outputs[0]) if node.op_type in CARRYING else None
    if numbers is None or not (index == 0 or node.op_type in ("Concat", "Where", *ARITHMETIC)):
        return False
    return all(trace.origin(node.outputs[0], element) is not None for element in range(numbers.size))


def _compared_with_none(node: ir.Node, index: int, trace: Trace) -> bool:
    """Whether sizes are compared with −1 or 0 (is it given?): they never are, whatever goes."""
    other = node.inputs[1 - index] if node.op_type in COMPARING and index < 2 else None
    numbers = trace.integers(other) if other is not None and other.const_value is not None else None
    return numbers is not None and bool(np.all(numbers <= 0))


Loose = list[tuple[Origin, Label, int]]
"""Integers that depend on a label's size along an axis."""


def _sizes_in(value: ir.Value, skipped: Iterable[int], trace: Trace, labelled: Mapping[ir.Value, Labels]) -> Loose:
    numbers = trace.integers(value) if value.const_value is None else None
    found: Loose = []
    for element in range(0 if numbers is None else numbers.size):
        origin = trace.origin(value, element) if element not in skipped else None
        for leaf in origin.leaves if origin is not None else ():
            source = labelled_axis(labelled, leaf)
            if source is not None and origin is not None:
                found.append((origin, source[0], source[0].axes[source[1]]))
    return found


def _pinned(node: ir.Node, index: int, loose: Loose) -> list[Fact]:
    """A single size that is cast to a real number is written there as it is: no shape comes from it."""
    to = node.attributes.get_int("to", 0) if node.op_type == "Cast" else 0
    if not loose or to not in REAL or loose[0][0].place is None or loose[0][0].place.node is not None:
        return []
    return [
        Size(node, index, 0, label, label.axes.index(axis), current=(origin.current,), pinned=True)
        for origin, label, axis in loose
    ]


def _held(loose: Loose, where: str) -> list[Fact]:
    return [fact for _, x, axis in loose for fact in hold((x,), [axis], f"its size is an operand of {where}")]
