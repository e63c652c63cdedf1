"""Operators that read an image at places that are computed."""

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.torch_twin.ops.layout import integers
from onnxprune.torch_twin.registry import Call, op

MODES = {"linear": "bilinear", "cubic": "bicubic"}


@op("GridSample", domain="com.microsoft")
@op("GridSample")
def grid_sample(call: Call, x: Tensor, grid: Tensor) -> Tensor:
    """At places between -1 and 1; three modes, three ways to read beyond the edge."""
    mode = call.attr("mode", "bilinear")
    settings = MODES.get(mode, mode), call.attr("padding_mode", "zeros"), bool(call.attr("align_corners", 0))
    return F.grid_sample(x, grid, *settings)


@op("AffineGrid", numbers=(1,))
def affine_grid(call: Call, theta: Tensor, size: Tensor) -> Tensor:
    """The places of an affine map, of two or three spatial axes."""
    return F.affine_grid(theta, integers(size) or [], bool(call.attr("align_corners", 0)))


@op("DeformConv")
def deform_conv(
    call: Call, x: Tensor, weight: Tensor, offset: Tensor, bias: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Of two spatial axes: each window reads at places of its own, weighed by a mask."""
    batch, (rows, columns) = len(x), offset.shape[2:]
    high, wide = weight.shape[2:]
    sets, groups = call.attr("offset_group", 1), call.attr("group", 1)
    pads, strides = call.attr("pads") or [0] * 4, call.attr("strides") or [1, 1]
    dilations = call.attr("dilations") or [1, 1]
    shifts = offset.reshape(batch * sets, high, wide, 2, rows, columns)
    places = []
    for axis, (kernel, count, size) in enumerate(zip((high, wide), (rows, columns), x.shape[2:], strict=True)):
        windows = torch.arange(count, device=x.device) * strides[axis] - pads[axis]
        own = torch.arange(kernel, device=x.device) * dilations[axis]
        grid = (own[:, None, None, None] + windows[:, None]) if axis == 0 else own[:, None, None] + windows
        places.append((2 * (shifts[:, :, :, axis] + grid) + 1) / size - 1)
    grid = torch.stack([places[1], places[0]], -1).reshape(batch * sets, high * wide * rows, columns, 2)
    split = x.reshape(batch * sets, -1, *x.shape[2:])
    read = F.grid_sample(split, grid, "bilinear", "zeros", False)
    read = read.reshape(batch, sets, -1, high * wide, rows, columns)
    if mask is not None:
        read = read * mask.reshape(batch, sets, 1, high * wide, rows, columns)
    taken = read.reshape(batch, groups, -1, rows * columns)
    found = weight.reshape(groups, -1, taken.shape[2]) @ taken
    found = found.reshape(batch, -1, rows, columns)
    return found if bias is None else found + bias[:, None, None]
