"""Sizes of pruned axes that the model reads at run time (Shape) and uses where no rule expects them."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

import onnx_ir as ir

from onnxprune.graph import bodies, every_node
from onnxprune.labels import Labels
from onnxprune.op_rules.facts import Fixed
from onnxprune.op_rules.registry import labelled_axis
from onnxprune.trace import ARITHMETIC, PASSING, Trace

CARRYING = {*PASSING, *ARITHMETIC, "Concat", "Gather", "Slice", "Shape"}


def loose_sizes(
    model: ir.Model, trace: Trace, labelled: Mapping[ir.Value, Labels], settled: Collection[tuple[ir.Node, int, int]]
) -> list[Fixed]:
    """Fix the axes whose size ends up in anything but a shape that a rule settled: 1 / √C, a Range, an output."""
    nodes = list(every_node(model))
    if not any(node.op_type == "Shape" and labelled.get(value) for node in nodes for value in node.inputs if value):
        return []
    seen: dict[tuple[ir.Node, int], set[int]] = defaultdict(set)
    for node, index, element in settled:
        seen[node, index].add(element)
    found: list[Fixed] = []
    for node in nodes:
        for index, value in enumerate(node.inputs):
            if value is not None and not _carries(node, index, trace):
                skipped = seen.get((node, index), set())
                found += _sizes_in(value, skipped, node.name or node.op_type, trace, labelled)
        for value in (value for body in bodies(node) for value in body.outputs):
            found += _sizes_in(value, (), f"the body of {node.name}", trace, labelled)
    for value in model.graph.outputs:
        found += _sizes_in(value, (), "the outputs of the model", trace, labelled)
    return found


def _carries(node: ir.Node, index: int, trace: Trace) -> bool:
    """Whether a node only hands the integers at this input on, to readers that are looked at in turn."""
    numbers = trace.integers(node.outputs[0]) if node.op_type in CARRYING else None
    if numbers is None or not (index == 0 or node.op_type in ("Concat", *ARITHMETIC)):
        return False
    return all(trace.origin(node.outputs[0], element) is not None for element in range(numbers.size))


def _sizes_in(
    value: ir.Value, skipped: Iterable[int], where: str, trace: Trace, labelled: Mapping[ir.Value, Labels]
) -> Iterable[Fixed]:
    numbers = trace.integers(value) if value.const_value is None else None
    for element in range(0 if numbers is None else numbers.size):
        origin = trace.origin(value, element) if element not in skipped else None
        for leaf in origin.leaves if origin is not None else ():
            source = labelled_axis(labelled, leaf)
            if source is not None:
                yield Fixed(source[0].atoms, f"its size is an operand of {where}")
