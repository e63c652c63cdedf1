"""Operators that pick or write positions by index."""

import torch
from torch import Tensor

from onnxprune.torch_twin.registry import Call, op


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
    how = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}.get(call.attr("reduction", "none"))
    return x.scatter(axis, places, updates) if how is None else x.scatter_reduce(axis, places, updates, how)


@op("ScatterND")
def scatter_nd(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """Slices at tuples of indices, put in place or added."""
    places = tuple(_counted(indices[..., k], x.shape[k], x) for k in range(indices.shape[-1]))
    how = call.attr("reduction", "none")
    if how not in ("none", "add"):
        raise NotImplementedError(f"ScatterND with reduction {how}")
    return x.index_put(places, updates, accumulate=how == "add")


@op("TopK", numbers=(1,))
def top_k(call: Call, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """The largest or smallest along one axis, sorted."""
    values, places = torch.topk(x, int(k.item()), call.attr("axis", -1), bool(call.attr("largest", 1)))
    return values, places


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


@op("Trilu", numbers=(1,))
def trilu(call: Call, x: Tensor, k: Tensor | None = None) -> Tensor:
    """The upper or the lower triangle of the last two axes."""
    offset = 0 if k is None else int(k.item())
    return torch.triu(x, offset) if call.attr("upper", 1) else torch.tril(x, offset)


@op("CumSum", numbers=(1,))
def cum_sum(call: Call, x: Tensor, axis: Tensor) -> Tensor:
    """Along one axis, from either end, the own position left out where it is `exclusive`."""
    along = int(axis.item()) % x.ndim
    back = bool(call.attr("reverse", 0))
    x = x.flip(along) if back else x
    total = x.cumsum(along).to(x.dtype)
    total = total - x if call.attr("exclusive", 0) else total
    return total.flip(along) if back else total
