"""What must stand in an initializer for the constant computed from it to come nearest to given numbers."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from onnxprune.graph import Array, array_of, replace_constant

Inverse = Callable[[ir.Node, Array], Array]
INVERSES: dict[str, Inverse] = {}


def inverse(*op_types: str) -> Callable[[Inverse], Inverse]:
    """Register the decorated function: what input 0 of these operators must be for the result to be an array."""

    def register(function: Inverse) -> Inverse:
        INVERSES.update(dict.fromkeys(op_types, function))
        return function

    return register


def stored(value: ir.Value) -> ir.Value | None:
    """The initializer that decides this constant and no other, through operators with an inverse, if there is one."""
    while len(value.uses()) == 1 and not value.is_graph_output():
        node = value.producer()
        if node is None:
            return value if value.const_value is not None else None
        known = node.op_type in INVERSES and node.domain in ("", "ai.onnx", "com.microsoft")
        given = node.inputs[0] if known else None
        if given is None or any(v is not None and not v.is_initializer() for v in node.inputs[1:]):
            return None
        value = given
    return None


def write(value: ir.Value, array: Array) -> None:
    """Change the initializer behind a constant that `stored` knows."""
    node = value.producer()
    while node is not None:
        array, given = INVERSES[node.op_type](node, array), node.inputs[0]
        assert given is not None
        value, node = given, given.producer()
    replace_constant(value, array)


@inverse("Cast", "Identity")
def _same(node: ir.Node, wanted: Array) -> Array:
    return wanted


@inverse("Transpose")
def _transposed(node: ir.Node, wanted: Array) -> Array:
    perm = node.attributes.get("perm")
    return np.transpose(wanted, None if perm is None else np.argsort(perm.as_ints()))


@inverse("DequantizeLinear")
def _quantised(node: ir.Node, wanted: Array) -> Array:
    """The nearest quanta, of those that the weight uses: some are left out on purpose (sums of 16 bits overflow)."""
    given = node.inputs[0]
    assert given is not None
    scale, zero = _grid(node, wanted.shape)
    quanta: Array = np.rint(wanted / scale) + zero
    low, high = _limits(given)
    return quanta.clip(low, high)


def _limits(given: ir.Value) -> tuple[float, float]:
    if given.const_value is not None and given.const_value.dtype.itemsize <= 1:
        used = array_of(given).astype(np.float64)
        return float(used.min()), float(used.max())
    limits = np.iinfo(np.int32)
    return float(limits.min), float(limits.max)


@inverse("QuantizeLinear")
def _dequantised(node: ir.Node, wanted: Array) -> Array:
    """A weight that stays in numbers in the file."""
    scale, zero = _grid(node, wanted.shape)
    return np.asarray((wanted - zero) * scale)


def _grid(node: ir.Node, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Scale and zero point of each element, to broadcast."""
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    given = [node.inputs[1], zero]
    found = [np.zeros(()) if value is None else array_of(value).astype(np.float64) for value in given]
    scale, zeros = (_spread(node, numbers, shape) for numbers in found)
    return scale, zeros


def _spread(node: ir.Node, numbers: Array, shape: tuple[int, ...]) -> Array:
    if numbers.size == 1:
        return numbers.reshape(())
    axis, size = node.attributes.get_int("axis", 1) % len(shape), node.attributes.get_int("block_size", 0)
    if size:
        return np.repeat(numbers, size, axis).take(range(shape[axis]), axis)
    return numbers.reshape([-1 if a == axis else 1 for a in range(len(shape))])
