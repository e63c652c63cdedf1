"""Normalisations, and what weighs positions against each other."""

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.torch_twin.registry import Call, op

MICROSOFT = "com.microsoft"


@op("BatchNormalization")
def batch_norm(call: Call, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """With the running statistics, also while training."""
    if mean.requires_grad or variance.requires_grad:
        mean, variance, scale, shift = (
            v.reshape(-1, *(1 for _ in x.shape[2:])) for v in (mean, variance, scale, shift)
        )
        return (x - mean) * torch.rsqrt(variance + call.attr("epsilon", 1e-5)) * scale + shift
    return F.batch_norm(x, mean, variance, scale, shift, False, 0.0, call.attr("epsilon", 1e-5))


@op("InstanceNormalization")
def instance_norm(call: Call, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Each channel of each sample by itself."""
    return F.instance_norm(x, None, None, scale, shift, True, 0.0, call.attr("epsilon", 1e-5))


@op("GroupNormalization")
def group_norm(call: Call, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Scales are of groups before opset 21, of channels since."""
    groups = call.attr("num_groups")
    if call.opset < 21:
        scale, shift = (v.repeat_interleave(x.shape[1] // groups) for v in (scale, shift))
    return F.group_norm(x, groups, scale, shift, call.attr("epsilon", 1e-5))


@op("LayerNormalization")
def layer_norm(
    call: Call, x: Tensor, scale: Tensor, shift: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """Over every axis from `axis` on; mean and inverse deviation where they are asked for."""
    axis = call.attr("axis", -1) % x.ndim
    epsilon = call.attr("epsilon", 1e-5)
    own = tuple(x.shape[axis:])
    if scale.shape == own and (shift is None or shift.shape == own) and call.outputs < 2:
        return F.layer_norm(x, own, scale, shift, epsilon)
    axes = tuple(range(axis, x.ndim))
    mean = x.mean(axes, keepdim=True)
    inverse = torch.rsqrt(((x - mean) ** 2).mean(axes, keepdim=True) + epsilon)
    result = (x - mean) * inverse * scale
    return (result if shift is None else result + shift), mean, inverse


@op("RMSNormalization", "SimplifiedLayerNormalization")
def rms_norm(call: Call, x: Tensor, scale: Tensor) -> Tensor:
    """By the root of the mean square of every axis from `axis` on."""
    axes = tuple(range(call.attr("axis", -1) % x.ndim, x.ndim))
    return x * torch.rsqrt((x**2).mean(axes, keepdim=True) + call.attr("epsilon", 1e-5)) * scale


@op("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_norm(
    call: Call,
    x: Tensor,
    skip: Tensor,
    scale: Tensor,
    shift: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """The norm of a sum, and the sum."""
    total = x + skip if bias is None else x + skip + bias
    normed = F.layer_norm(total, total.shape[-1:], scale, shift, call.attr("epsilon", 1e-5))
    return normed, None, None, total


@op("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_rms_norm(
    call: Call, x: Tensor, skip: Tensor, scale: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """The root-mean-square norm of a sum, and the sum."""
    total = x + skip if bias is None else x + skip + bias
    inverse = torch.rsqrt((total**2).mean(-1, keepdim=True) + call.attr("epsilon", 1e-5))
    return total * inverse * scale, None, None, total


@op("LpNormalization")
def lp_norm(call: Call, x: Tensor) -> Tensor:
    """By the p-norm along one axis."""
    return x / torch.linalg.vector_norm(x, call.attr("p", 2), call.attr("axis", -1), keepdim=True)


@op("LRN")
def local_response_norm(call: Call, x: Tensor) -> Tensor:
    """Channels against their neighbours."""
    size = call.attr("size")
    before = (size - 1) // 2
    squares = F.pad((x**2).flatten(2), [0, 0, before, size - 1 - before]).unfold(1, size, 1).sum(-1).reshape(x.shape)
    return x / (call.attr("bias", 1.0) + call.attr("alpha", 1e-4) / size * squares) ** call.attr("beta", 0.75)


@op("MeanVarianceNormalization")
def mean_variance_norm(call: Call, x: Tensor) -> Tensor:
    """Over the axes named, plus 1e-9 in the divisor."""
    axes = tuple(call.attr("axes", [0, 2, 3]))
    mean = x.mean(axes, keepdim=True)
    return (x - mean) / (torch.sqrt((x**2).mean(axes, keepdim=True) - mean**2) + 1e-9)


def _flattened(call: Call, x: Tensor) -> tuple[Tensor, int]:
    """Before opset 13 all axes from `axis` on are one."""
    if call.opset >= 13:
        return x, call.attr("axis", -1)
    return x.flatten(call.attr("axis", 1) % x.ndim), -1


@op("Softmax")
def softmax(call: Call, x: Tensor) -> Tensor:
    """Along one axis."""
    flat, axis = _flattened(call, x)
    return torch.softmax(flat, axis).reshape(x.shape)


@op("LogSoftmax")
def log_softmax(call: Call, x: Tensor) -> Tensor:
    """Along one axis."""
    flat, axis = _flattened(call, x)
    return torch.log_softmax(flat, axis).reshape(x.shape)


@op("Hardmax")
def hardmax(call: Call, x: Tensor) -> Tensor:
    """One at the first largest position."""
    flat, axis = _flattened(call, x)
    best = flat.argmax(axis, keepdim=True)
    return torch.zeros_like(flat).scatter(axis, best, 1.0).reshape(x.shape)
