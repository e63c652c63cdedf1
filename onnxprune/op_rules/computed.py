"""Rules of the operators behind a computed constant: what is cut from their result is cut from what they read.

They run backwards: a `Param` on the result becomes facts about the inputs, until all lie on initializers.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from onnxprune.graph import Array
from onnxprune.labels import reshaped, transposed
from onnxprune.op_rules.elementwise import joined
from onnxprune.op_rules.facts import Facts, Fixed, Param
from onnxprune.op_rules.layout import target_sizes
from onnxprune.op_rules.quantise import grid, zero_point
from onnxprune.op_rules.registry import Op

Behind = Callable[[Op, Param], Facts]
BEHIND: dict[tuple[str, str], Behind] = {}
DOMAINS = ("", "com.microsoft")
"""onnxruntime has its own QuantizeLinear and DequantizeLinear, of more types, for models of old opsets."""


def behind(*op_types: str) -> Callable[[Behind], Behind]:
    """Register the decorated function as the backward rule of these operators."""

    def register(function: Behind) -> Behind:
        BEHIND.update({(domain, op_type): function for op_type in op_types for domain in DOMAINS})
        return function

    return register


def sources(op: Op, param: Param) -> Facts:
    """What cutting along `param`, whose label lies on the result of `op`, asks of the inputs of `op`."""
    known = BEHIND.get((op.domain, op.node.op_type))
    if known is None or len(op.node.outputs) > 1:
        yield Fixed(param.label.atoms, f"a constant along it is computed by {op.node.op_type} ({op.node.name})")
    else:
        yield from known(op, param)


def _spread(op: Op, nothing: Array | None) -> Array | None:
    return None if nothing is None else np.broadcast_to(nothing, op.out_shape())


@behind("Cast", "Identity")
def _same(op: Op, param: Param) -> Facts:
    """Position by position."""
    yield Param(0, param.label, param.contracted, param.nothing)


@behind("Transpose")
def _transposed(op: Op, param: Param) -> Facts:
    """Axes change places back."""
    perm = [int(axis) for axis in op.attr("perm") or list(range(len(op.shape())))[::-1]]
    back = [int(axis) for axis in np.argsort(perm)]
    nothing = _spread(op, param.nothing)
    (label,) = transposed((param.label,), back)
    yield Param(0, label, param.contracted, None if nothing is None else nothing.transpose(back))


@behind("Flatten", "Reshape", "Squeeze", "Unsqueeze")
def _reshaped(op: Op, param: Param) -> Facts:
    """Row-major, and a target size that holds channels follows."""
    kept, _ = reshaped((param.label,), op.out_shape(), op.shape())
    if not kept or len(kept[0].axes) > 1:
        yield Fixed(param.label.atoms, f"a constant along it is reshaped by {op.node.name}")
        return
    if op.node.op_type == "Reshape":
        yield from target_sizes(replace(op, labelled={op.input(0): kept}), param.label)
    nothing = _spread(op, param.nothing)
    yield Param(0, kept[0], param.contracted, None if nothing is None else nothing.reshape(op.shape()))


@behind("Mul", "Div")
def _scaled(op: Op, param: Param) -> Facts:
    """The factor that has all positions holds the zeros; every factor is cut along."""
    whole = [i for i in range(2) if op.shape(i) == op.out_shape()]
    if not whole or param.nothing is not None or (op.node.op_type == "Div" and whole[0] != 0):
        yield Fixed(param.label.atoms, f"a constant along it is computed by {op.node.op_type} ({op.node.name})")
        return
    yield Param(whole[0], param.label, param.contracted)
    other = 1 - whole[0]
    yield from joined(op, other, param.label, len(op.out_shape()) - len(op.shape(other)))


@behind("DequantizeLinear")
def _dequantised(op: Op, param: Param) -> Facts:
    """Zero is the zero point; scales and zero points are cut along where there are several."""
    zero = zero_point(op)
    if param.nothing is not None or (op.has(2) and op.array(2) is None):
        yield Fixed(param.label.atoms, f"the zero point of {op.node.name} is computed")
        return
    yield Param(0, param.label, param.contracted, zero)
    yield from grid(op, param.label)


@behind("QuantizeLinear")
def _quantised(op: Op, param: Param) -> Facts:
    """A weight kept in floats and quantised at run time: zero becomes the zero point."""
    zero = zero_point(op)
    if param.contracted and not _alike(op, param.nothing, zero):
        yield Fixed(param.label.atoms, f"{op.node.name} makes other zeros than its reader takes for zeros")
        return
    yield Param(0, param.label, param.contracted)
    yield from grid(op, param.label)


def _alike(op: Op, first: Array | None, second: Array | None) -> bool:
    one, other = (np.broadcast_to(0 if zero is None else zero, op.shape()) for zero in (first, second))
    return np.array_equal(one, other)
