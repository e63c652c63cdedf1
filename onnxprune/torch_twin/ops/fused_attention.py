"""Attention of onnxruntime's own: the past, padding and rotation are parts of it."""

import torch
from torch import Tensor

from onnxprune.torch_twin.ops.attention import allowed, barred, capped, heads_of, joined, shared, turned, weighed
from onnxprune.torch_twin.registry import Call, op

MICROSOFT = "com.microsoft"
FILTER = -10000.0


def _masked(call: Call, mask: Tensor | None, scores: Tensor) -> Tensor | None:
    """What padding adds to scores: lengths, (ends, starts), or truth for (keys) or (queries, keys) of each sample."""
    if mask is None:
        return None
    batch, keys = scores.shape[0], scores.shape[-1]
    places = torch.arange(keys, device=mask.device)
    if mask.ndim == 1 and mask.numel() == batch:
        live = (places < mask[:, None])[:, None, None]
    elif mask.ndim == 1 and mask.numel() == 2 * batch:
        live = ((places < mask[:batch, None]) & (places >= mask[batch:, None]))[:, None, None]
    elif mask.ndim in (2, 3):
        live = (mask != 0).reshape(batch, 1, -1, keys)
    else:
        raise NotImplementedError(f"its mask has the shape {tuple(mask.shape)}")
    filter_ = torch.tensor(call.attr("mask_filter_value", FILTER), dtype=scores.dtype, device=scores.device)
    return torch.zeros_like(filter_).where(live.to(scores.device), filter_)


def _attended(
    call: Call, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The result, heads joined, and the scores."""
    scores = (query @ key.transpose(-1, -2)) * (call.attr("scale") or query.shape[-1] ** -0.5)
    scores = scores if bias is None else scores + bias
    queries, keys = scores.shape[-2:]
    causal = barred(allowed(queries, keys, keys - queries), scores) if call.attr("unidirectional", 0) else None
    padding = _masked(call, mask, scores)
    both = padding if causal is None or padding is None else causal + padding
    weights = weighed(scores, causal if both is None else both)
    return joined(weights @ value), scores


@op("Attention", domain=MICROSOFT)
def fused_attention(
    call: Call,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    past: Tensor | None = None,
    added: Tensor | None = None,
    past_length: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Projections of one weight (channels, queries | keys | values), and heads of them."""
    if call.attr("do_rotary", 0) or past_length is not None:
        raise NotImplementedError("it rotates by itself, or shares its past's memory")
    projected = x @ weight if bias is None else x @ weight + bias
    sizes = call.attr("qkv_hidden_sizes") or [weight.shape[1] // 3] * 3
    query, key, value = (heads_of(part, call.attr("num_heads")) for part in projected.split(sizes, -1))
    if past is not None:
        key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
    present = torch.stack([key, value]) if call.outputs > 1 else key
    return _attended(call, query, key, value, mask, added)[0], present


@op("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(
    call: Call,
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    added: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    *others: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys and values apart; keys of four axes have their heads already."""
    if key is None or value is None or any(other is not None for other in others):
        raise NotImplementedError("its queries and keys are packed, or it shares its past's memory")
    count = call.attr("num_heads")
    if bias is not None:
        sizes = [query.shape[-1], key.shape[-1], value.shape[-1]] if key.ndim == 3 else [query.shape[-1]] * 3
        own = bias.split(sizes)
        query = query + own[0]
        key, value = (key + own[1], value + own[2]) if key.ndim == 3 else (key, value)
    query = heads_of(query, count)
    key, value = (x if x.ndim == 4 else heads_of(x, count) for x in (key, value))
    if past_key is not None and past_value is not None:
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
    result, scores = _attended(call, query, key, value, mask, added)
    return result, key, value, scores


@op("GroupQueryAttention", domain=MICROSOFT)
def group_query_attention(
    call: Call,
    query: Tensor,
    key: Tensor | None,
    value: Tensor | None,
    past_key: Tensor | None,
    past_value: Tensor | None,
    last: Tensor,
    total: Tensor,
    cosines: Tensor | None = None,
    sines: Tensor | None = None,
    positions: Tensor | None = None,
    added: Tensor | None = None,
    sink: Tensor | None = None,
    *others: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys behind a past, which is as long as each sample's own count tells."""
    if any(x is not None for x in others) or call.attr("sliding_window_cache", 0) or call.outputs > 3:
        raise NotImplementedError("it has a quantised or windowed past, or norms of its own")
    count, few = call.attr("num_heads"), call.attr("kv_num_heads")
    if key is None or value is None:
        size = query.shape[-1] // (count + 2 * few)
        query, key, value = query.split([count * size, few * size, few * size], -1)
    queries, keys = query.shape[1], int(total.item())
    before = last.reshape(-1).to(query.device, torch.int64) + 1 - queries
    before = torch.zeros_like(before) if queries == keys else before
    query, key, value = heads_of(query, count), heads_of(key, few), heads_of(value, few)
    if call.attr("do_rotary", 0) and cosines is not None and sines is not None:
        own = before[:, None] + torch.arange(queries, device=query.device) if positions is None else positions
        angles = cosines[own], sines[own]
        query, key = (
            turned(x.transpose(1, 2), *angles, bool(call.attr("rotary_interleaved", 0))).transpose(1, 2)
            for x in (query, key)
        )
    key, value = _behind(past_key, key, before, keys), _behind(past_value, value, before, keys)
    scores = query @ shared(key, count)[:, :, :keys].transpose(-1, -2) * (call.attr("scale") or query.shape[-1] ** -0.5)
    scores = capped(scores, call.attr("softcap", 0.0))
    scores = scores if added is None else scores + added
    left = call.attr("local_window_size", -1)
    right = 0 if call.attr("causal", 1) else -1
    inside = allowed(queries, keys, before, left - 1 if left > 0 else -1, right)[:, None]
    live = torch.arange(keys, device=query.device) < (before + queries)[:, None, None, None]
    sink = torch.zeros(count, dtype=scores.dtype, device=scores.device) if call.attr("smooth_softmax", 0) == 1 else sink
    weights = weighed(scores, barred(inside & live, scores), sink)
    return joined(weights @ shared(value, count)[:, :, :keys]), key, value


def _behind(past: Tensor | None, new: Tensor, before: Tensor, total: int) -> Tensor:
    """What is new behind as much of the past as each sample has; where that is longer, in its place."""
    if past is None or past.shape[2] == 0:
        return new
    size = max(past.shape[2], total)
    rows = [
        torch.cat([old[:, :count], fresh, old[:, count + fresh.shape[1] :]], 1)[:, :size]
        for old, fresh, count in zip(past, new, before.tolist(), strict=True)
    ]
    return torch.stack([torch.nn.functional.pad(row, [0, 0, 0, size - row.shape[1]]) for row in rows])


@op("RotaryEmbedding", domain=MICROSOFT)
def fused_rotary_embedding(call: Call, x: Tensor, positions: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """The positions of each sample, or where all of them begin."""
    four = x.ndim == 4
    size = call.attr("rotary_embedding_dim", 0)
    heads = call.attr("num_heads", 0) if size else x.shape[-1] // (2 * cosines.shape[-1])
    apart = x.transpose(1, 2) if four else x.reshape(*x.shape[:2], heads, -1)
    own = positions.to(x.device)
    own = own + torch.arange(apart.shape[1], device=x.device) if own.ndim == 1 else own
    found = turned(apart, cosines[own], sines[own], bool(call.attr("interleaved", 0)))
    return found.transpose(1, 2) if four else found.flatten(2)
