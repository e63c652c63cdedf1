"""Layers and pools of onnxruntime's own that have something fused into them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.torch_twin.ops.activations import fused
from onnxprune.torch_twin.ops.layers import conv, fused_matmul, gemm
from onnxprune.torch_twin.ops.pools import max_pool
from onnxprune.torch_twin.registry import OPS, Call, op

MICROSOFT = "com.microsoft"


@op("FusedConv", domain=MICROSOFT)
def fused_conv(
    call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None, added: Tensor | None = None
) -> Tensor:
    """A convolution, a shortcut and an activation."""
    found: Tensor = conv(call, x, weight, bias)
    return fused(call, found if added is None else found + added, *(call.attr("activation_params") or ()))


@op("FusedGemm", domain=MICROSOFT)
def fused_gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """A product and an activation."""
    return fused(call, gemm(call, a, b, c), call.attr("activation_alpha", 0.0), call.attr("activation_beta", 0.0))


OPS[MICROSOFT, "TransposeMatMul"] = fused_matmul


@op("NhwcMaxPool", domain=MICROSOFT)
def nhwc_max_pool(call: Call, x: Tensor) -> Tensor:
    """Channels last; of quanta, which are pooled as numbers."""
    found = max_pool(call, x.movedim(-1, 1).to(torch.float32))
    return torch.as_tensor(found).to(x.dtype).movedim(1, -1)


@op("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_norm(
    call: Call,
    words: Tensor,
    segments: Tensor | None,
    word_table: Tensor,
    position_table: Tensor,
    segment_table: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    mask: Tensor | None = None,
    positions: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The norm of the sum of what words, positions and segments stand for; the words of each sample, and the sum."""
    own = torch.arange(words.shape[1], device=words.device) if positions is None else positions
    total = F.embedding(words, word_table) + F.embedding(own, position_table)
    if segments is not None and segment_table is not None:
        total = total + F.embedding(segments, segment_table)
    live = torch.zeros(len(words), dtype=torch.int32, device=words.device)
    live = live if mask is None else (mask != 0).sum(1).to(torch.int32)
    return F.layer_norm(total, total.shape[-1:], scale, shift, call.attr("epsilon", 1e-12)), live, total
