"""Layers that carry a state along a sequence: linear attention and causal convolution."""

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.torch_twin.ops.attention import heads_of, joined, shared
from onnxprune.torch_twin.registry import Call, op


@op("LinearAttention")
def linear_attention(
    call: Call,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    state: Tensor | None = None,
    decay: Tensor | None = None,
    beta: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step a position; the state (batch, heads, keys, values) fades by `decay` and is corrected by `beta`."""
    count, few = call.attr("q_num_heads"), call.attr("kv_num_heads")
    query, key, value = heads_of(query, count), heads_of(key, few), heads_of(value, few)
    scale = call.attr("scale", 0.0) or query.shape[-1] ** -0.5
    fades = None if decay is None else heads_of(decay, few).exp()
    rates = None if beta is None else heads_of(beta, few)
    zero = key.new_zeros(*key.shape[:2], key.shape[-1], value.shape[-1])
    state = zero if state is None else state
    found = []
    for t in range(query.shape[2]):
        state = state if fades is None else fades[:, :, t, :, None] * state
        k, v = key[:, :, t, :, None], value[:, :, t, None]
        new = v if rates is None else rates[:, :, t, :, None] * (v - k.transpose(-1, -2) @ state)
        state = state + k * new
        found.append(scale * (query[:, :, t, None] @ shared(state, count)))
    return joined(torch.cat(found, 2)), state


@op("CausalConvWithState")
def causal_conv(
    call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Each channel by itself, behind the last positions of what came before."""
    width = weight.shape[-1] - 1
    whole = F.pad(x, [width, 0]) if state is None else torch.cat([state, x], -1)
    found = F.conv1d(whole, weight, bias, groups=x.shape[1])
    gated = call.attr("activation", "none") in ("silu", "swish")
    return F.silu(found) if gated else found, whole[..., whole.shape[-1] - width :]
