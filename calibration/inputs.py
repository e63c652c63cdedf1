"""What a model's graph says about its inputs: names, dtypes, shapes, id bounds, value ranges."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from onnxprune.errors import BadInput

_LAYOUT_OPS = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Expand"})
_PICKING_OPS = frozenset({"Gather", "GatherElements", "Slice", "Split"})
_TABLE_OPS = frozenset({"Cast", "Identity", "DequantizeLinear"})
# onnxruntime's fused embedding: which input is looked up in which table.
_FUSED_TABLES = {0: 2, 1: 4}
# A lone division by more than this undoes a byte range: 255, 128, 127.5.
_BYTE_SCALE = 100.0
# Preprocessing has one value a channel; larger constants are learned (position embeddings, say).
_PREPROCESSING_VALUES = 16


@dataclass(frozen=True)
class InputSpec:
    """One input of a model.

    `shape` holds None where a dimension is dynamic, and `symbols` (empty, or one per axis) the names the model gives
    such dimensions. `vocabulary` is the number of valid ids of an integer input that indexes an embedding table, and
    `setting` the number that the model compares a single integer with. `batch` is the axis that counts samples, where
    that was found by trying. `centre` and `spread` are the mean and standard deviation of the values for which the
    preprocessing inside the model (if any) yields zero mean and unit deviation.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int | None, ...]
    symbols: tuple[str | None, ...] = ()
    vocabulary: int | None = None
    centre: float = 0.0
    spread: float = 1.0
    setting: int | None = None
    batch: int | None = None

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def symbol(self, axis: int) -> str | None:
        """The name of a dynamic dimension, where the model gives one."""
        return self.symbols[axis] if self.symbols else None


def input_specs(model: ir.Model) -> list[InputSpec]:
    """List the inputs that a caller must feed; initializers listed as inputs are not among them.

    Raises BadInput for an input that is not a tensor, whose rank is unknown, or that holds strings.
    """
    return [_spec(value) for value in model.graph.inputs if value.name not in model.graph.initializers]


def batch_axes(specs: Sequence[InputSpec]) -> dict[str, int | None]:
    """Say on which axis each input counts samples: None where it holds the same value for every sample.

    What was found by trying wins, then a dynamic dimension named after the batch, then a dynamic axis 0. Where there is
    none, axis 0 of the first input with axes sets the batch size, and the inputs that share that size are batched.
    """
    axes = {spec.name: _dynamic_batch_axis(spec) if spec.batch is None else spec.batch for spec in specs}
    if any(axis is not None for axis in axes.values()):
        return axes
    size = next((spec.shape[0] for spec in specs if spec.rank), None)
    return {spec.name: 0 if spec.rank and spec.shape[0] == size else None for spec in specs}


def fixed_batch(specs: Sequence[InputSpec]) -> int | None:
    """Return the batch size that the model insists on, or None where it takes any."""
    axes = batch_axes(specs)
    sizes = (spec.shape[axis] for spec in specs if (axis := axes[spec.name]) is not None)
    return next((size for size in sizes if size is not None), None)


def is_image(spec: InputSpec) -> bool:
    """Whether an input has the rank and a dtype of image batches."""
    if spec.dtype == np.bool_ or np.issubdtype(spec.dtype, np.complexfloating):
        return False
    return spec.rank == 4 and (spec.dtype == np.uint8 or not np.issubdtype(spec.dtype, np.integer))


def is_state(spec: InputSpec, axes: Mapping[str, int | None]) -> bool:
    """Whether an input looks like a recurrent state (layers, samples, features): another counts samples, it does not.

    `axes` holds the batch axes of all inputs.
    """
    free = [axis for axis, size in enumerate(spec.shape) if size is None]
    others = any(axis is not None for axis in axes.values())
    return others and axes[spec.name] is None and spec.rank == 3 and free == [1]


def _dynamic_batch_axis(spec: InputSpec) -> int | None:
    dynamic = [axis for axis, size in enumerate(spec.shape) if size is None]
    named = [axis for axis in dynamic if "batch" in (spec.symbol(axis) or "").lower()]
    if named:
        return named[0]
    return 0 if 0 in dynamic else None


def _spec(value: ir.Value) -> InputSpec:
    name = value.name or ""
    if not isinstance(value.type, ir.TensorType) or value.dtype is None:
        raise BadInput(f"model input {name!r} is not a tensor ({value.type}): only tensor inputs can be calibrated")
    if value.shape is None:
        raise BadInput(f"model input {name!r} declares no shape: give it one (its rank at least) in the model")
    if value.dtype == ir.DataType.STRING:
        raise BadInput(f"model input {name!r} holds strings: cut the model after its text preprocessing")
    dims = tuple(dim if isinstance(dim, int) and dim > 0 else None for dim in value.shape)
    symbols = tuple(_symbol(dim) for dim in value.shape)
    centre, spread = _value_range(value)
    dtype = np.dtype(value.dtype.numpy())
    return InputSpec(name, dtype, dims, symbols, _vocabulary(value), centre, spread, _setting(value, dims))


def _symbol(dim: int | ir.SymbolicDim) -> str | None:
    # Paddle writes "?" for every unknown size, which names none of them.
    return dim.value if isinstance(dim, ir.SymbolicDim) and dim.value != "?" else None


def _vocabulary(value: ir.Value) -> int | None:
    sizes = [size for use in _reached(value) if (size := _table_rows(*use)) is not None]
    return min(sizes, default=None)


def _setting(value: ir.Value, dims: tuple[int | None, ...]) -> int | None:
    if prod(dim or 0 for dim in dims) != 1:
        return None
    compared = (_compared_with(*use) for use in _reached(value))
    return next((int(numbers[0]) for numbers in compared if numbers is not None and numbers.size == 1), None)


def _compared_with(node: ir.Node, index: int) -> np.ndarray | None:
    """The integer constant that an input is compared with, flat."""
    other = node.inputs[1 - index] if node.op_type == "Equal" else None
    constant = None if other is None else ir.convenience.get_const_tensor(other)
    return constant.numpy().reshape(-1) if constant is not None and constant.dtype.is_integer() else None


def _reached(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """Every use of a value, or of some of its elements as they are."""
    # Seen by identity: exporters reuse no value object, but names may be empty.
    pending, seen = [value], {id(value)}
    while pending:
        for node, index in pending.pop().uses():
            yield node, index
            if node.op_type in _LAYOUT_OPS | _PICKING_OPS and index == 0:
                new = [output for output in node.outputs if id(output) not in seen]
                seen |= {id(output) for output in new}
                pending += new


def _table_rows(node: ir.Node, index: int) -> int | None:
    numbers = _compared_with(node, index)
    if numbers is not None and numbers.size > 1:  # a one-hot code written out
        return int(numbers.max()) + 1
    if node.op_type == "OneHot" and index == 0:
        depth = None if node.inputs[1] is None else ir.convenience.get_const_tensor(node.inputs[1])
        return None if depth is None else int(depth.numpy().reshape(-1)[0])
    if node.op_type == "Gather" and index == 1 and _int_attribute(node, "axis") == 0:
        table = node.inputs[0]
    elif node.op_type == "EmbedLayerNormalization" and index in _FUSED_TABLES:
        table = node.inputs[_FUSED_TABLES[index]]
    else:
        return None
    while table is not None and (source := table.producer()) is not None and source.op_type in _TABLE_OPS:
        table = source.inputs[0]
    constant = None if table is None else ir.convenience.get_const_tensor(table)
    # A Gather from a vector picks sizes out of a Shape, not embeddings.
    return constant.shape.numpy()[0] if constant is not None and len(constant.shape) > 1 else None


def _int_attribute(node: ir.Node, name: str) -> int:
    attribute = node.attributes.get(name)
    return 0 if attribute is None else attribute.as_int()


def _value_range(value: ir.Value) -> tuple[float, float]:
    scale, shift = 1.0, 0.0
    while len(value.uses()) == 1:
        (node, index), *_ = value.uses()
        if node.op_type not in _LAYOUT_OPS:
            step = _affine_step(node, index)
            if step is None:
                break
            scale, shift = scale * step[0], shift * step[0] + step[1]
        value = node.outputs[0]
    if shift == 0 and scale * _BYTE_SCALE < 1:
        return 127.5, 64.0
    return -shift / scale, 1 / scale


def _affine_step(node: ir.Node, index: int) -> tuple[float, float] | None:
    """Read y = scale * x + shift off a preprocessing node; constants per channel count by their mean."""
    if index != 0 or len(node.inputs) < 2:
        return None
    if node.op_type == "BatchNormalization":
        mean, variance = _mean(node.inputs[3]), _mean(node.inputs[4])
        return None if mean is None or not variance else (variance**-0.5, -mean * variance**-0.5)
    constant = _mean(node.inputs[1], _PREPROCESSING_VALUES)
    if constant is None:
        return None
    if node.op_type in ("Add", "Sub"):
        return 1.0, constant if node.op_type == "Add" else -constant
    if node.op_type in ("Mul", "Div") and constant > 0:
        return (constant if node.op_type == "Mul" else 1 / constant), 0.0
    return None


def _mean(value: ir.Value | None, most: int | None = None) -> float | None:
    constant = None if value is None else ir.convenience.get_const_tensor(value)
    if constant is None or constant.size == 0 or (most is not None and constant.size > most):
        return None
    if not np.issubdtype(constant.dtype.numpy(), np.number):
        return None
    mean = float(np.mean(constant.numpy().astype(np.float64)))
    return mean if np.isfinite(mean) else None
