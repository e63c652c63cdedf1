"""Attention and rotary embedding of ONNX, and what onnxruntime's own share with them."""

import torch
from torch import Tensor

from onnxprune.torch_twin.registry import Call, op
from onnxprune.torch_twin.tensors import TORCH

NEVER = float("-inf")


def heads_of(x: Tensor, count: int) -> Tensor:
    """(batch, positions, heads · size) as (batch, heads, positions, size)."""
    return x.reshape(*x.shape[:2], count, -1).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    """(batch, heads, positions, size) as (batch, positions, heads · size)."""
    return x.transpose(1, 2).flatten(2)


def shared(x: Tensor, heads: int) -> Tensor:
    """Each head repeated for the run of queries that read it."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)


def allowed(queries: int, keys: int, offset: Tensor | int, left: int = -1, right: int = 0) -> Tensor:
    """(…, queries, keys) which keys a query may read: the first stands at `offset`; -1 leaves a side open."""
    device = offset.device if isinstance(offset, Tensor) else None
    own = torch.arange(queries, device=device)[:, None] + (offset if isinstance(offset, int) else offset[:, None, None])
    places = torch.arange(keys, device=device)
    ahead = places - own
    inside = torch.ones_like(ahead, dtype=torch.bool)
    inside = inside & (ahead <= right) if right >= 0 else inside
    return inside & (-ahead <= left) if left >= 0 else inside


def barred(mask: Tensor, like: Tensor) -> Tensor:
    """What a mask of truth adds to scores: nothing, or minus infinity."""
    return torch.zeros((), dtype=like.dtype, device=like.device).where(mask.to(like.device), NEVER)


def weighed(scores: Tensor, bias: Tensor | None, sink: Tensor | None = None) -> Tensor:
    """Softmax over keys; a query that may read none gets zeros. A `sink` takes its share beside the keys."""
    if bias is None and sink is None:
        return torch.softmax(scores, -1)
    total = scores if bias is None else scores + bias
    dead = (total == NEVER).all(-1, keepdim=True)
    total = total.masked_fill(dead, 0.0)
    if sink is not None:
        total = torch.cat([total, sink.reshape(-1, 1, 1).expand(*total.shape[:-1], 1)], -1)
    weights = torch.softmax(total, -1).masked_fill(dead, 0.0)
    return weights if sink is None else weights[..., :-1]


def capped(scores: Tensor, limit: float) -> Tensor:
    """Scores pressed between two bounds, where there is a limit."""
    return limit * torch.tanh(scores / limit) if limit else scores


@op("Attention")
def attention(
    call: Call,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Heads on an axis of their own or not, shared keys, a past, a mask, a window."""
    flat = query.ndim == 3
    if flat:
        count, few = call.attr("q_num_heads"), call.attr("kv_num_heads")
        query, key, value = heads_of(query, count), heads_of(key, few), heads_of(value, few)
    key = key if past_key is None else torch.cat([past_key, key], 2)
    value = value if past_value is None else torch.cat([past_value, value], 2)
    scale = call.attr("scale") or query.shape[-1] ** -0.5
    scores = (query * scale**0.5) @ (shared(key, query.shape[1]) * scale**0.5).transpose(-1, -2)
    soft = capped(scores, call.attr("softcap", 0.0))
    bias = _bias(call, soft, mask, 0 if past_key is None else past_key.shape[2], lengths)
    precision = call.attr("softmax_precision", 0)
    wide = soft.to(TORCH[precision]) if precision else soft
    weights = weighed(wide, bias).to(query.dtype)
    result = weights @ shared(value, query.shape[1])
    seen = [lambda: scores, lambda: soft, lambda: soft if bias is None else soft + bias, lambda: weights]
    told = seen[call.attr("qk_matmul_output_mode", 0)]() if call.outputs > 3 else scores
    return joined(result) if flat else result, key, value, told


def _bias(call: Call, scores: Tensor, mask: Tensor | None, past: int, lengths: Tensor | None) -> Tensor | None:
    """The sum of what the mask, the direction, the window and the lengths of samples forbid."""
    queries, keys = scores.shape[-2:]
    parts = []
    if mask is not None:
        own = barred(mask, scores) if mask.dtype == torch.bool else mask
        short = keys - own.shape[-1]
        parts.append(torch.nn.functional.pad(own, [0, short], value=NEVER) if short else own)
    offset: Tensor | int = past if lengths is None else lengths - queries
    left, right = call.attr("left_window_size", -1), call.attr("right_window_size", -1)
    right = 0 if call.attr("is_causal", 0) else right
    if left >= 0 or right >= 0:
        inside = allowed(queries, keys, offset, left, right)
        parts.append(barred(inside if lengths is None else inside[:, None], scores))
    if lengths is not None:
        live = torch.arange(keys, device=lengths.device) < lengths[:, None]
        parts.append(barred(live[:, None, None], scores))
    return sum(parts[1:], parts[0]) if parts else None


def turned(x: Tensor, cosines: Tensor, sines: Tensor, interleaved: bool) -> Tensor:
    """Pairs of channels of (batch, positions, heads, size) turned by the angles of (batch, positions, pairs)."""
    pairs = cosines.shape[-1]
    cosines, sines = cosines.unsqueeze(-2), sines.unsqueeze(-2)
    part, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    ones, others = (part[..., 0::2], part[..., 1::2]) if interleaved else part.chunk(2, -1)
    both = ones * cosines - others * sines, ones * sines + others * cosines
    done = torch.stack(both, -1).flatten(-2) if interleaved else torch.cat(both, -1)
    return torch.cat([done, rest], -1) if rest.shape[-1] else done


@op("RotaryEmbedding")
def rotary_embedding(call: Call, x: Tensor, cosines: Tensor, sines: Tensor, positions: Tensor | None = None) -> Tensor:
    """Heads on an axis of their own or not; angles of positions, or of each sample's own."""
    if positions is not None:
        cosines, sines = cosines[positions], sines[positions]
    apart = x.transpose(1, 2) if x.ndim == 4 else x.reshape(*x.shape[:2], call.attr("num_heads"), -1)
    found = turned(apart, cosines, sines, bool(call.attr("interleaved", 0)))
    return found.transpose(1, 2) if x.ndim == 4 else found.flatten(2)
