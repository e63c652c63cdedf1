"""Operators on boxes: which of them stay, and what lies in them."""

import torch
from torch import Tensor

from onnxprune.torch_twin.ops.layout import integers
from onnxprune.torch_twin.registry import Call, op


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


@op("NonMaxSuppression", numbers=(2, 3, 4))
def non_max_suppression(
    call: Call,
    boxes: Tensor,
    scores: Tensor,
    most: Tensor | None = None,
    overlap: Tensor | None = None,
    least: Tensor | None = None,
) -> Tensor:
    """(chosen, 3) sample, class and box: the best of each class, without those that overlap a better one."""
    count = 0 if most is None else int(most.item())
    limit = 0.0 if overlap is None else float(overlap.item())
    found = [
        torch.tensor([n, c, box])
        for n, of_sample in enumerate(scores.detach())
        for c, row in enumerate(of_sample)
        for box in _kept(_sides(call, boxes[n].detach()), row, count, limit, None if least is None else least.item())
    ]
    return torch.stack(found) if found else torch.zeros(0, 3, dtype=torch.int64)


def _sides(call: Call, boxes: Tensor) -> Tensor:
    """(boxes, 4) low and high ends, whichever way round they are given."""
    if call.attr("center_point_box", 0):
        middle, half = boxes[:, :2], boxes[:, 2:] / 2
        return torch.cat([middle - half, middle + half], 1)
    return torch.cat([torch.minimum(boxes[:, :2], boxes[:, 2:]), torch.maximum(boxes[:, :2], boxes[:, 2:])], 1)


def _kept(sides: Tensor, scores: Tensor, count: int, limit: float, least: float | None) -> list[int]:
    order = torch.argsort(scores, descending=True, stable=True)
    order = order if least is None else order[scores[order] > least]
    areas = (sides[:, 2:] - sides[:, :2]).prod(1)
    kept: list[int] = []
    while len(order) and len(kept) < count:
        best, order = order[0], order[1:]
        kept.append(int(best))
        low, high = torch.maximum(sides[best, :2], sides[order, :2]), torch.minimum(sides[best, 2:], sides[order, 2:])
        common = (high - low).clamp(min=0).prod(1)
        order = order[~(common > limit * (areas[best] + areas[order] - common))]
    return kept
