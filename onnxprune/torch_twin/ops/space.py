"""Operators that pad and crop, and that move positions between channels and space."""

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.torch_twin.ops.layout import integers
from onnxprune.torch_twin.registry import Call, op


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
        sides = [side for pair in reversed(list(zip(begin, end, strict=True))) for side in pair]
        if value is not None and value.requires_grad:
            return torch.where(F.pad(torch.ones_like(x, dtype=torch.bool), sides), F.pad(x, sides), value)
        return F.pad(x, sides, value=call.attr("value", 0.0) if value is None else value.item())
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


@op("CenterCropPad", numbers=(1,))
def center_crop_pad(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    """Cut or padded with zeros at both ends, until the axes have these sizes."""
    named = call.attr("axes") or list(range(x.ndim))
    for axis, size in zip((axis % x.ndim for axis in named), integers(shape) or [], strict=True):
        spare = size - x.shape[axis]
        if spare < 0:
            x = x.narrow(axis, -spare // 2, size)
        else:
            x = F.pad(x, [0, 0] * (x.ndim - 1 - axis) + [spare // 2, spare - spare // 2])
    return x


@op("Col2Im", numbers=(1, 2))
def col_to_im(call: Call, x: Tensor, image: Tensor, block: Tensor) -> Tensor:
    """Blocks (batch, channels · block, blocks) added up where they lie in the image."""
    sizes, blocks = integers(image) or [], integers(block) or []
    rank = len(sizes)
    pads, strides = call.attr("pads") or [0] * 2 * rank, call.attr("strides") or [1] * rank
    dilations = call.attr("dilations") or [1] * rank
    whole = [n + pads[a] + pads[rank + a] for a, n in enumerate(sizes)]
    place = torch.zeros((), dtype=torch.int64, device=x.device)
    for axis, (n, k, s, d) in enumerate(zip(whole, blocks, strides, dilations, strict=True)):
        counts = (n - (k - 1) * d - 1) // s + 1
        own = torch.arange(k, device=x.device)[:, None] * d + torch.arange(counts, device=x.device) * s
        shape = [1] * 2 * rank
        shape[axis], shape[rank + axis] = own.shape
        place = place * n + own.reshape(shape)
    columns = x.reshape(len(x), -1, place.numel())
    total = columns.new_zeros(*columns.shape[:2], torch.Size(whole).numel()).index_add(2, place.reshape(-1), columns)
    total = total.reshape(*columns.shape[:2], *whole)
    for axis, n in enumerate(sizes):
        total = total.narrow(2 + axis, pads[axis], n)
    return total
