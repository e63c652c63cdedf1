"""Operators that rename, cut, join and repeat axes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from onnxprune.torch_twin.registry import Call, op

MICROSOFT = "com.microsoft"


def integers(value: Tensor | Sequence[int] | None) -> list[int] | None:
    """A list of whole numbers, from a tensor or an attribute."""
    if isinstance(value, Tensor):
        return [int(number) for number in value.reshape(-1).tolist()]
    return None if value is None else list(value)


@op("Reshape", numbers=(1,))
def reshape(call: Call, x: Tensor, shape: Tensor | None = None) -> Tensor:
    """Zero takes a size over, unless `allowzero`."""
    sizes = integers(shape if shape is not None else call.attr("shape")) or []
    if not call.attr("allowzero", 0):
        sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    return x.reshape(sizes)


@op("Flatten")
def flatten(call: Call, x: Tensor) -> Tensor:
    """Into two axes."""
    axis = call.attr("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(torch.Size(x.shape[:axis]).numel(), torch.Size(x.shape[axis:]).numel())


@op("Transpose")
def transpose(call: Call, x: Tensor) -> Tensor:
    """Axes in another order, reversed where none is given."""
    return x.permute(call.attr("perm") or list(reversed(range(x.ndim))))


@op("Squeeze", numbers=(1,))
def squeeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Without the axes named, or without all of size one."""
    named = integers(axes if axes is not None else call.attr("axes"))
    return x.squeeze() if named is None else x.squeeze(tuple(named))


@op("ExpandDims", domain=MICROSOFT, numbers=(1,))
@op("Unsqueeze", numbers=(1,))
def unsqueeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """With axes of size one where the result has those named."""
    named = integers(axes if axes is not None else call.attr("axes")) or []
    rank = x.ndim + len(named)
    for axis in sorted(axis % rank for axis in named):
        x = x.unsqueeze(axis)
    return x


@op("Concat")
def concat(call: Call, *values: Tensor) -> Tensor:
    """Along one axis."""
    return torch.cat(values, call.attr("axis"))


@op("Split", numbers=(1,))
def split(call: Call, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    """Into parts of given sizes, or of equal ones, of which the last may be smaller."""
    axis = call.attr("axis", 0)
    named = integers(sizes if sizes is not None else call.attr("split"))
    if named is not None:
        return tuple(torch.split(x, named, axis))
    parts = call.attr("num_outputs", call.outputs)
    return tuple(torch.split(x, -(-x.shape[axis] // parts), axis))


@op("Slice", numbers=(1, 2, 3, 4))
def slice_(
    call: Call,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    """Bounds are attributes before opset 10; steps may be negative."""
    begin = integers(starts if starts is not None else call.attr("starts")) or []
    end = integers(ends if ends is not None else call.attr("ends")) or []
    named = integers(axes if axes is not None else call.attr("axes")) or list(range(len(begin)))
    by = integers(steps) or [1] * len(begin)
    index = [slice(None)] * x.ndim
    for axis, low, high, step in zip(named, begin, end, by, strict=True):
        if step > 0:
            index[axis % x.ndim] = slice(low, high, step)
        else:
            x = _backwards(x, axis % x.ndim, slice(low, high, step))
    return x[tuple(index)]


def _backwards(x: Tensor, axis: int, part: slice) -> Tensor:
    places = list(range(*part.indices(x.shape[axis])))
    return x.index_select(axis, torch.tensor(places, dtype=torch.int64, device=x.device))


@op("Expand", numbers=(1,))
def expand(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    """Broadcast against a shape."""
    return x.expand(torch.broadcast_shapes(x.shape, tuple(integers(shape) or [])))


@op("Tile", numbers=(1,))
def tile(call: Call, x: Tensor, repeats: Tensor) -> Tensor:
    """Repeated along each axis."""
    return x.repeat(integers(repeats) or [])


@op("Shape")
def shape(call: Call, x: Any) -> Tensor:
    """Sizes, on the CPU."""
    sizes = torch.tensor(tuple(x.shape), dtype=torch.int64)
    return sizes[slice(call.attr("start", 0), call.attr("end"))]


@op("Size")
def size(call: Call, x: Tensor) -> Tensor:
    """How many elements there are."""
    return torch.tensor(x.numel(), dtype=torch.int64)
