"""Pairs of layers with nothing but a clipping activation between them, and the rows that join them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.calibration.geometry import geometry
from onnxprune.calibration.rows import Positions
from onnxprune.graph import array_of, sole_reader
from onnxprune.labels import Shape
from onnxprune.layers import Layer

Index = npt.NDArray[np.intp]
DENSE = ("gemm", "matmul")


@dataclass(frozen=True, eq=False)
class Pair:
    """`first` → clip to [`low`, `high`] with slope `leak` below → `second`, which alone reads it."""

    first: Layer
    second: Layer
    low: float
    high: float
    leak: float


def find_pairs(layers: Sequence[Layer]) -> dict[str, Pair]:
    """The pairs among these layers, by the name of the second."""
    plain = [layer for layer in layers if layer.linear.weight.const_value is not None]
    by_result = {_result(layer): layer for layer in plain if layer.linear.groups == 1}
    found = {}
    for second in plain:
        between = _activation(second.linear.x)
        first = by_result.get(between[0]) if between is not None and second.linear.groups == 1 else None
        if first is not None and between is not None and _alike(first, second):
            found[second.name] = Pair(first, second, *between[1])
    return found


def _alike(first: Layer, second: Layer) -> bool:
    kinds = first.linear.kind, second.linear.kind
    return kinds == ("conv", "conv") or (kinds[0] in DENSE and kinds[1] in DENSE)


def _result(layer: Layer) -> ir.Value:
    """The layer's output, its bias added."""
    y = layer.linear.y
    add = sole_reader(y) if layer.linear.kind == "matmul" else None
    return add.outputs[0] if add is not None and add.op_type == "Add" and layer.bias in add.inputs else y


def _activation(x: ir.Value) -> tuple[ir.Value, tuple[float, float, float]] | None:
    """What a layer reads before the activation, and the activation's bounds and leak; None where it is another."""
    node = x.producer()
    if node is None or sole_reader(x) is None:
        return None
    source = node.inputs[0]
    if source is None or sole_reader(source) is None:
        return (x, (-np.inf, np.inf, 0.0))
    if node.op_type == "Relu":
        return source, (0.0, np.inf, 0.0)
    if node.op_type == "LeakyRelu":
        alpha = node.attributes.get("alpha")
        return source, (0.0, np.inf, 0.01 if alpha is None else alpha.as_float())
    if node.op_type == "Clip":
        bounds = _bounds(node)
        return None if bounds is None else (source, (*bounds, 0.0))
    return (x, (-np.inf, np.inf, 0.0))


def _bounds(node: ir.Node) -> tuple[float, float] | None:
    given: list[float] = []
    for position, (name, default) in enumerate((("min", -np.inf), ("max", np.inf)), start=1):
        attribute = node.attributes.get(name)
        value = node.inputs[position] if len(node.inputs) > position else None
        if attribute is not None:
            given.append(attribute.as_float())
        elif value is None:
            given.append(default)
        elif value.const_value is None:
            return None
        else:
            given.append(float(array_of(value).reshape(-1)[0]))
    return given[0], given[1]


def taps_under(second: Layer, where: Positions, shape: Shape) -> Index:
    """(P, taps) the flat positions of the first layer's output under each position of the second; −1 for padding.

    `shape` is that of what the second reads.
    """
    if second.linear.kind in DENSE:
        return where[:, None]
    window = geometry(second.linear, shape[2:])
    batch, *spatial = np.unravel_index(where, (shape[0], *window.outside))
    sizes = [(span - 1) // d + 1 for span, d in zip(window.spans, window.dilations, strict=True)]
    columns = []
    for tap in product(*(range(size) for size in sizes)):
        at = [
            p * s + t * d - b
            for p, s, t, d, b in zip(spatial, window.strides, tap, window.dilations, window.begin, strict=True)
        ]
        inside = np.all([(a >= 0) & (a < n) for a, n in zip(at, shape[2:], strict=True)], axis=0)
        clipped = [np.clip(a, 0, n - 1) for a, n in zip(at, shape[2:], strict=True)]
        flat = np.ravel_multi_index((batch, *clipped), (shape[0], *shape[2:]))
        columns.append(np.where(inside, flat, -1))
    return np.stack(columns, axis=1)
