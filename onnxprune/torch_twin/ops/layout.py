"""Operators that rename, cut, join and repeat axes."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.torch_twin.registry import Call, op


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
    return x.reshape(torch.Size(x.shape[:axis]).numel(), -1)


@op("Transpose")
def transpose(call: Call, x: Tensor) -> Tensor:
    """Axes in another order, reversed where none is given."""
    return x.permute(call.attr("perm") or list(reversed(range(x.ndim))))


@op("Squeeze", numbers=(1,))
def squeeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Without the axes named, or without all of size one."""
    named = integers(axes if axes is not None else call.attr("axes"))
    return x.squeeze() if named is None else x.squeeze(tuple(named))


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


@op("Pad", numbers=(1, 2, 3))
def pad(
    call: Call, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    """By a constant, the edge, reflection or from the other end; negative padding cuts."""
    given = integers(pads if pads is not None else call.attr("pads")) or []
    named = integers(axes) or list(range(len(given) // 2))
    begin, end = [0] * x.ndim, [0] * x.ndim
    for place, axis in enumerate(named):
        begin[axis % x.ndim], end[axis % x.ndim] = given[place], given[place + len(named)]
    mode = call.attr("mode", "constant")
    if mode == "constant":
        fill = call.attr("value", 0.0) if value is None else value.item()
        return F.pad(x, [side for pair in reversed(list(zip(begin, end, strict=True))) for side in pair], value=fill)
    for axis in range(x.ndim):
        x = x.index_select(axis, _places(x.shape[axis], begin[axis], end[axis], mode).to(x.device))
    return x


def _places(size: int, begin: int, end: int, mode: str) -> Tensor:
    """Where each position of a padded axis is taken from."""
    places = torch.arange(-begin, size + end)
    if mode == "edge":
        return places.clamp(0, size - 1)
    if mode == "wrap":
        return places % size
    period = max(2 * (size - 1), 1)
    places = places % period
    return torch.where(places < size, places, period - places)


@op("DepthToSpace")
def depth_to_space(call: Call, x: Tensor) -> Tensor:
    """Channels to space, in either order."""
    size = call.attr("blocksize")
    if call.attr("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, size)
    batch, channels, height, width = x.shape
    cut = x.reshape(batch, size, size, channels // size**2, height, width)
    return cut.permute(0, 3, 4, 1, 5, 2).reshape(batch, channels // size**2, height * size, width * size)


@op("SpaceToDepth")
def space_to_depth(call: Call, x: Tensor) -> Tensor:
    """Space to channels, blocks first."""
    size = call.attr("blocksize")
    batch, channels, height, width = x.shape
    cut = x.reshape(batch, channels, height // size, size, width // size, size)
    return cut.permute(0, 3, 5, 1, 2, 4).reshape(batch, channels * size**2, height // size, width // size)


@op("Shape")
def shape(call: Call, x: Any) -> Tensor:
    """Sizes, on the CPU."""
    sizes = torch.tensor(tuple(x.shape), dtype=torch.int64)
    return sizes[slice(call.attr("start", 0), call.attr("end"))]


@op("Size")
def size(call: Call, x: Tensor) -> Tensor:
    """How many elements there are."""
    return torch.tensor(x.numel(), dtype=torch.int64)
