"""Gates: a factor on every channel wherever a layer reads it, as an input of the model.

At 0 a channel is gone, as the proof has it: computed still, and read by nobody. At 1 the model is what it was, and the
gradient with respect to a gate tells what a channel does there, whatever reads it and however often.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.constants import computed_constants
from onnxprune.dependency import Analysis
from onnxprune.graph import add_constant, names_in, nodes_by_name, values_by_name
from onnxprune.grouping import Mask, Slot
from onnxprune.labels import WHOLE, Atoms, Label, Shape

GATES = "onnxprune.gates"
FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
"""What has a gradient; a factor on quanta would round."""
BatchAxis = Callable[[ir.Value], int | None]
"""Which axis of a value runs over the samples; None where there is no such axis."""


@dataclass(frozen=True, eq=False)
class Reading:
    """Channels (units) that input `index` of a node sums over: a computed one, or a constant of a recurrent layer."""

    node: ir.Node
    index: int
    label: Label

    @property
    def value(self) -> ir.Value:
        """What is read."""
        value = self.node.inputs[self.index]
        assert value is not None
        return value


@dataclass(frozen=True, eq=False)
class Gated:
    """A model with the input `name` (rows, units + 1), whose last column stands for what stays and must be 1.

    There is one row for all samples or, with `per_sample`, one for each.
    """

    model: ir.Model
    name: str
    per_sample: bool


def readings(analysis: Analysis, units: Atoms) -> list[Reading]:
    """Where these units are summed over: by layers with a weight, and in products of activations, by one side."""
    wanted = np.zeros(analysis.units + 1, np.bool_)
    wanted[units] = True
    carried: dict[ir.Value, list[Label]] = defaultdict(list)
    for slot in analysis.slots:
        if slot.reader is None:
            carried[slot.value].append(slot.label)
    found: dict[ir.Node, list[Reading]] = defaultdict(list)
    constant = computed_constants(analysis.model)
    multiplied = {(linear.node, linear.weight): linear.x for linear in analysis.linears}
    weights = (slot for slot in analysis.slots if slot.contracted)
    for slot, product in (*((s, False) for s in weights), *((s, True) for s in analysis.summed)):
        if slot.reader is None or all(value in constant for value in slot.reader.outputs):
            continue
        index, labels = _behind(slot, product, multiplied, carried)
        own = wanted & np.isin(np.arange(wanted.size), slot.label.atoms)
        for covered in (x for x in found[slot.reader] if product or x.index == index):
            own[covered.label.atoms] = False
        found[slot.reader] += _readings(slot.reader, index, labels, own)
    return [read for own_reads in found.values() for read in own_reads]


def _behind(
    slot: Slot,
    product: bool,
    multiplied: Mapping[tuple[ir.Node, ir.Value], ir.Value],
    carried: Mapping[ir.Value, Sequence[Label]],
) -> tuple[int, Sequence[Label]]:
    """The input of the reader that a place stands for: what a weight is multiplied with, else the place itself."""
    assert slot.reader is not None
    inputs = list(slot.reader.inputs)
    x = multiplied.get((slot.reader, slot.value))
    if not product and x is not None and x in inputs:
        return inputs.index(x), carried[x]
    return inputs.index(slot.value), [slot.label]


def _readings(node: ir.Node, index: int, labels: Sequence[Label], own: Mask) -> list[Reading]:
    value = node.inputs[index]
    if value is None or value.dtype not in (None, *FLOATS):
        return []
    masked = [Label(x.axes, np.where(own[x.atoms], x.atoms, WHOLE)) for x in labels]
    return [Reading(node, index, label) for label in masked if np.any(label.atoms != WHOLE)]


def add_gates(analysis: Analysis, reads: Sequence[Reading], batch_axis: BatchAxis | None = None) -> Gated:
    """The analysed model with gates at the given places; with `batch_axis`, of each sample by itself."""
    model = analysis.model.clone()
    nodes, values, taken = nodes_by_name(model), values_by_name(model), names_in(model.graph)
    name = GATES
    while name in taken:
        name += "_"
    rows: int | str = "samples" if batch_axis is not None else 1
    kind = ir.TensorType(ir.DataType.FLOAT)
    gates = ir.Value(name=name, type=kind, shape=ir.Shape([rows, analysis.units + 1]))
    model.graph.inputs.append(gates)
    for number, read in enumerate(reads):
        node = nodes[read.node.name or ""]
        given = node.inputs[read.index]
        assert given is not None
        dtype = (values[given.name].dtype if given.name in values else None) or ir.DataType.FLOAT
        batch = None if batch_axis is None else batch_axis(read.value)
        shape = analysis.trace.shape(read.value)
        made = _factor(model.graph, f"{name}.{number}", gates, read.label, shape, batch, dtype, taken)
        product = ir.node("Mul", [given, made[-1].outputs[0]], name=f"{name}.{number}.product")
        product.outputs[0].name = f"{name}.{number}"
        product.outputs[0].type = given.type
        assert node.graph is not None
        for one in (*made, product):
            node.graph.insert_before(node, one)
        node.replace_input_with(read.index, product.outputs[0])
    return Gated(model, name, batch_axis is not None)


def _factor(
    graph: ir.Graph,
    name: str,
    gates: ir.Value,
    label: Label,
    shape: Shape,
    batch: int | None,
    dtype: ir.DataType,
    taken: set[str],
) -> list[ir.Node]:
    """The gates of a label's units, laid along its axes, and of the samples along theirs."""
    sizes = [shape[a] if a in label.axes else 1 for a in range(len(shape))]
    axes = label.axes
    made = [_node("Gather", f"{name}.own", [gates, _constant(graph, f"{name}.units", label.atoms, taken)], axis=1)]
    if batch is not None:
        sizes[batch] = -1
        order = np.argsort((batch, *axes)).tolist()
        made.append(_node("Transpose", f"{name}.turned", [made[-1].outputs[0]], perm=order))
    target = _constant(graph, f"{name}.shape", np.array(sizes, np.int64), taken)
    made.append(_node("Reshape", f"{name}.laid", [made[-1].outputs[0], target]))
    if dtype != ir.DataType.FLOAT:
        made.append(_node("Cast", f"{name}.cast", [made[-1].outputs[0]], to=int(dtype)))
    return made


def _constant(graph: ir.Graph, name: str, array: Atoms, taken: set[str]) -> ir.Value:
    return add_constant(graph, name, array.astype(np.int64), taken=taken)


def _node(op_type: str, name: str, inputs: list[ir.Value], **attributes: int | list[int]) -> ir.Node:
    node = ir.node(op_type, inputs, attributes, name=name)
    node.outputs[0].name = name
    return node
