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


def corners(x: Tensor, y: Tensor, at: Tensor) -> list[Tensor]:
    """The four neighbours of places (…) in an image (channels, height, width), each (channels, …) times its share."""
    height, width = x.shape[1:]
    top, left = y.detach().floor(), at.detach().floor()
    below, beside = y - top, at - left
    rows = [top.long().clamp(0, height - 1), (top.long() + 1).clamp(0, height - 1)]
    columns = [left.long().clamp(0, width - 1), (left.long() + 1).clamp(0, width - 1)]
    return [
        x[:, rows[i], columns[j]] * ((below if i else 1 - below) * (beside if j else 1 - beside))
        for i in (0, 1)
        for j in (0, 1)
    ]


@op("RoiAlign")
def roi_align(call: Call, x: Tensor, rois: Tensor, owners: Tensor) -> Tensor:
    """The mean, or the largest share, of samples in each cell of each box."""
    default = "half_pixel" if call.opset >= 16 else "output_half_pixel"
    half = call.attr("coordinate_transformation_mode", default) == "half_pixel"
    boxes = rois * call.attr("spatial_scale", 1.0) - (0.5 if half else 0.0)
    cells = call.attr("output_height", 1), call.attr("output_width", 1)
    found = [_aligned(call, x[int(n)], box, cells, half) for box, n in zip(boxes, owners.tolist(), strict=True)]
    return torch.stack(found) if found else x.new_zeros(0, x.shape[1], *cells)


def _aligned(call: Call, image: Tensor, box: Tensor, cells: tuple[int, int], half: bool) -> Tensor:
    """(channels, height, width) one box."""
    places, outside = [], []
    for axis, count in enumerate(cells):
        begin, end = box[1 - axis], box[3 - axis]
        size = end - begin if half else (end - begin).clamp(min=1.0)
        samples = call.attr("sampling_ratio", 0) or max(int(torch.ceil(size.detach() / count).item()), 0)
        steps = (torch.arange(count * samples, device=image.device, dtype=image.dtype) + 0.5) / max(samples, 1)
        at = begin + steps * (size / count)
        outside.append((at < -1) | (at > image.shape[1 + axis]))
        places.append(at.clamp(0, image.shape[1 + axis] - 1))
    if any(not len(at) for at in places):
        return image.new_zeros(image.shape[0], *cells)
    shares = torch.stack(corners(image, *torch.meshgrid(*places, indexing="ij")))
    shares = shares.masked_fill(outside[0][:, None] | outside[1], 0.0)
    grid = shares.unflatten(-1, (cells[1], -1)).unflatten(-3, (cells[0], -1))
    if call.attr("mode", "avg") == "max":
        return grid.amax(dim=(0, 3, 5))
    return grid.sum(0).mean(dim=(2, 4))


@op("CropAndResize", domain="com.microsoft", numbers=(3,))
def crop_and_resize(call: Call, x: Tensor, rois: Tensor, owners: Tensor, size: Tensor) -> Tensor:
    """Boxes between 0 and 1, their corners on the corners of the crop; beyond the edge is one value."""
    found = [_crop(call, x[int(n)], box, integers(size) or []) for box, n in zip(rois, owners.tolist(), strict=True)]
    return torch.stack(found)


def _crop(call: Call, image: Tensor, box: Tensor, size: list[int]) -> Tensor:
    places, outside = [], []
    for axis, count in enumerate(size):
        begin, end, limit = box[axis], box[axis + 2], image.shape[1 + axis] - 1
        steps = torch.arange(count, device=image.device, dtype=image.dtype) / max(count - 1, 1)
        at = (begin + (steps if count > 1 else 0.5) * (end - begin)) * limit
        at = at.reshape(-1) if count > 1 else at.reshape(1)
        outside.append((at < 0) | (at > limit))
        places.append(at.clamp(0, limit))
    y, beside = torch.meshgrid(*places, indexing="ij")
    if call.attr("mode", "bilinear") == "nearest":
        found = image[:, torch.floor(y + 0.5).long(), torch.floor(beside + 0.5).long()]
    else:
        found = sum(corners(image, y, beside)[1:], corners(image, y, beside)[0])
    return found.masked_fill(outside[0][:, None] | outside[1], call.attr("extrapolation_value", 0.0))


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
