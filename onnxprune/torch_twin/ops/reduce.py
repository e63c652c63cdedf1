"""Reductions."""

from collections.abc import Callable

import torch
from torch import Tensor

from onnxprune.torch_twin.ops.layout import integers
from onnxprune.torch_twin.registry import Call, op

Axes = tuple[int, ...]


def _product(x: Tensor, axes: Axes) -> Tensor:
    for axis in axes:
        x = x.prod(axis, keepdim=True)
    return x


REDUCED: dict[str, Callable[[Tensor, Axes], Tensor]] = {
    "ReduceL1": lambda x, axes: x.abs().sum(axes, keepdim=True),
    "ReduceL2": lambda x, axes: torch.linalg.vector_norm(x, 2, axes, keepdim=True),
    "ReduceLogSum": lambda x, axes: x.sum(axes, keepdim=True).log(),
    "ReduceLogSumExp": lambda x, axes: torch.logsumexp(x, axes, keepdim=True),
    "ReduceMax": lambda x, axes: x.amax(axes, keepdim=True),
    "ReduceMean": lambda x, axes: x.mean(axes, keepdim=True),
    "ReduceMin": lambda x, axes: x.amin(axes, keepdim=True),
    "ReduceProd": _product,
    "ReduceSum": lambda x, axes: x.sum(axes, keepdim=True, dtype=x.dtype),
    "ReduceSumSquare": lambda x, axes: (x**2).sum(axes, keepdim=True),
}
"""What each makes of a tensor along some axes, which stay with size one."""


@op(*REDUCED, numbers=(1,))
def reduction(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Along the axes named by attribute or input; along all where none is."""
    named = integers(axes if axes is not None else call.attr("axes"))
    if not named and call.attr("noop_with_empty_axes", 0):
        return x
    along = tuple(axis % x.ndim for axis in named) if named else tuple(range(x.ndim))
    found = REDUCED[call.op_type](x, along)
    return found if call.attr("keepdims", 1) or not along else found.squeeze(along)


@op("ArgMax", "ArgMin")
def arg_extreme(call: Call, x: Tensor) -> Tensor:
    """The first, or the last, largest or smallest along one axis."""
    axis = call.attr("axis", 0)
    pick = torch.argmax if call.op_type == "ArgMax" else torch.argmin
    keep = bool(call.attr("keepdims", 1))
    if call.attr("select_last_index", 0):
        return x.shape[axis] - 1 - pick(x.flip(axis), axis, keepdim=keep)
    return pick(x, axis, keepdim=keep)
