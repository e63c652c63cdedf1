"""Operators that pick or write positions by index."""

import torch
from torch import Tensor

from onnxprune.torch_twin.registry import Call, op

MICROSOFT = "com.microsoft"
COMBINED = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
"""torch's name of each way to combine what is there with what comes."""


def _counted(indices: Tensor, size: int, like: Tensor) -> Tensor:
    """Indices from the end made positive, beside the tensor that they point into."""
    here = indices.to(like.device, torch.int64)
    return torch.where(here < 0, here + size, here)


@op("Gather")
def gather(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """Whole slices along one axis."""
    axis = call.attr("axis", 0) % x.ndim
    places = _counted(indices, x.shape[axis], x)
    picked = x.index_select(axis, places.reshape(-1))
    return picked.reshape([*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]])


@op("GatherElements")
def gather_elements(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """Single elements along one axis."""
    axis = call.attr("axis", 0) % x.ndim
    return x.gather(axis, _counted(indices, x.shape[axis], x))


@op("GatherND", domain=MICROSOFT)
@op("GatherND")
def gather_nd(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """Slices at tuples of indices, behind batch axes."""
    batch = call.attr("batch_dims", 0)
    lead, depth = torch.Size(x.shape[:batch]), indices.shape[-1]
    flat = x.reshape(-1, *x.shape[batch:])
    places = indices.to(x.device).reshape(flat.shape[0], -1, depth)
    own = torch.arange(flat.shape[0], device=x.device)[:, None].expand(places.shape[:2])
    columns = [_counted(places[..., k], x.shape[batch + k], x) for k in range(depth)]
    picked = flat[(own, *columns)]
    return picked.reshape([*lead, *indices.shape[batch:-1], *x.shape[batch + depth :]])


@op("ScatterElements", "Scatter")
def scatter_elements(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """Single elements along one axis, put in place or combined."""
    axis = call.attr("axis", 0) % x.ndim
    places = _counted(indices, x.shape[axis], x)
    how = COMBINED.get(call.attr("reduction", "none"))
    updates = updates.to(x.dtype)
    return x.scatter(axis, places, updates) if how is None else x.scatter_reduce(axis, places, updates, how)


@op("ScatterND")
def scatter_nd(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """Slices at tuples of indices, put in place or combined."""
    depth, updates = indices.shape[-1], updates.to(x.dtype)
    places = tuple(_counted(indices[..., k], x.shape[k], x) for k in range(depth))
    how = COMBINED.get(call.attr("reduction", "none"))
    if how in (None, "sum"):
        return x.index_put(places, updates, accumulate=how == "sum")
    flat, row = x.reshape(torch.Size(x.shape[:depth]).numel(), -1), torch.zeros((), dtype=torch.int64, device=x.device)
    for place, size in zip(places, x.shape, strict=False):
        row = row * size + place
    rows = row.reshape(-1, 1).expand(-1, flat.shape[1])
    return flat.scatter_reduce(0, rows, updates.reshape(rows.shape), how).reshape(x.shape)


@op("TensorScatter")
def tensor_scatter(call: Call, x: Tensor, updates: Tensor, begins: Tensor | None = None) -> Tensor:
    """Positions of each sample from its own beginning on."""
    axis = call.attr("axis", -2) % x.ndim
    places = torch.arange(updates.shape[axis], device=x.device).expand(len(x), -1)
    places = places if begins is None else places + begins[:, None]
    places = places % x.shape[axis] if call.attr("mode", "linear") == "circular" else places
    shape = [size if a in (0, axis) else 1 for a, size in enumerate(updates.shape)]
    return x.scatter(axis, places.reshape(shape).expand(updates.shape), updates)


@op("TopK", numbers=(1,))
def top_k(call: Call, x: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The largest or smallest along one axis, sorted; of equal ones the first come first."""
    count, axis = int(k.item()) if k is not None else call.attr("k"), call.attr("axis", -1)
    values, places = torch.sort(x, dim=axis, descending=bool(call.attr("largest", 1)), stable=True)
    return values.narrow(axis, 0, count), places.narrow(axis, 0, count)


@op("OneHot", numbers=(1,))
def one_hot(call: Call, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    """A new axis with one value at the index, and another elsewhere."""
    count = int(depth.item())
    axis = call.attr("axis", -1)
    axis = axis + indices.ndim + 1 if axis < 0 else axis
    places = torch.arange(count, device=indices.device).reshape(-1, *(1 for _ in range(indices.ndim - axis)))
    hit = torch.where(indices < 0, indices + count, indices).unsqueeze(axis) == places
    return torch.where(hit, values[1], values[0])


@op("NonZero")
def non_zero(call: Call, x: Tensor) -> Tensor:
    """Where there is something, one column each."""
    return torch.nonzero(x).T


@op("Compress")
def compress(call: Call, x: Tensor, condition: Tensor) -> Tensor:
    """Where there is truth, along one axis or along all as one."""
    axis = call.attr("axis")
    x, axis = (x.reshape(-1), 0) if axis is None else (x, axis)
    return x.index_select(axis, torch.nonzero(condition).reshape(-1))


@op("ReverseSequence")
def reverse_sequence(call: Call, x: Tensor, lengths: Tensor) -> Tensor:
    """The first positions of each sample, as many as it has, turned round."""
    time, batch = call.attr("time_axis", 0), call.attr("batch_axis", 1)
    steps = torch.arange(x.shape[time], device=x.device)
    ends = lengths[:, None].to(x.device)
    places = torch.where(steps < ends, ends - 1 - steps, steps)
    places = places if batch < time else places.T
    shape = [size if axis in (time, batch) else 1 for axis, size in enumerate(x.shape)]
    return x.gather(time, places.reshape(shape).expand(x.shape))


@op("Trilu", domain=MICROSOFT, numbers=(1,))
@op("Trilu", numbers=(1,))
def trilu(call: Call, x: Tensor, k: Tensor | None = None) -> Tensor:
    """The upper or the lower triangle of the last two axes."""
    offset = 0 if k is None else int(k.item())
    return torch.triu(x, offset) if call.attr("upper", 1) else torch.tril(x, offset)


@op("CumSum", "CumProd", numbers=(1,))
def cumulated(call: Call, x: Tensor, axis: Tensor) -> Tensor:
    """Along one axis, from either end, the own position left out where it is `exclusive`."""
    along = int(axis.item()) % x.ndim
    back = bool(call.attr("reverse", 0))
    x = x.flip(along) if back else x
    empty = 0 if call.op_type == "CumSum" else 1
    if call.attr("exclusive", 0):
        first = torch.full_like(x.narrow(along, 0, 1), empty)
        x = torch.cat([first, x.narrow(along, 0, x.shape[along] - 1)], along)
    total = (x.cumprod(along) if empty else x.cumsum(along)).to(x.dtype)
    return total.flip(along) if back else total
