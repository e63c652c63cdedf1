"""Activations: functions with a kink or a gate, some of them behind a bias."""

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.torch_twin.registry import Call, op

MICROSOFT = "com.microsoft"


@op("PRelu")
def prelu(call: Call, x: Tensor, slope: Tensor) -> Tensor:
    """The slope is broadcast from the right."""
    return torch.where(x < 0, x * slope, x)


@op("LeakyRelu")
def leaky_relu(call: Call, x: Tensor) -> Tensor:
    """`alpha` below zero."""
    return F.leaky_relu(x, call.attr("alpha", 0.01))


@op("Elu")
def elu(call: Call, x: Tensor) -> Tensor:
    """`alpha` (eˣ − 1) below zero."""
    return F.elu(x, call.attr("alpha", 1.0))


@op("Celu")
def celu(call: Call, x: Tensor) -> Tensor:
    """`alpha` (e^(x/alpha) − 1) below zero."""
    return F.celu(x, call.attr("alpha", 1.0))


@op("Selu")
def selu(call: Call, x: Tensor) -> Tensor:
    """A scaled Elu."""
    alpha, gamma = call.attr("alpha", 1.6732632423543772), call.attr("gamma", 1.0507009873554805)
    return gamma * F.elu(x, alpha)


@op("HardSigmoid")
def hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    """A line between 0 and 1."""
    return (x * call.attr("alpha", 0.2) + call.attr("beta", 0.5)).clamp(0, 1)


@op("Softplus")
def softplus(call: Call, x: Tensor) -> Tensor:
    """log(1 + eˣ)."""
    return F.softplus(x, threshold=30)


@op("ThresholdedRelu")
def thresholded_relu(call: Call, x: Tensor) -> Tensor:
    """Nothing up to `alpha`."""
    return torch.where(x > call.attr("alpha", 1.0), x, torch.zeros_like(x))


@op("Shrink")
def shrink(call: Call, x: Tensor) -> Tensor:
    """Nothing near zero, and nearer to it elsewhere."""
    bias, lambd = call.attr("bias", 0.0), call.attr("lambd", 0.5)
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, torch.zeros_like(x)))


@op("Gelu")
@op("Gelu", domain=MICROSOFT)
def gelu(call: Call, x: Tensor) -> Tensor:
    """Exact, or by tanh."""
    return F.gelu(x, approximate=call.attr("approximate", "none"))


@op("BiasGelu", domain=MICROSOFT)
def bias_gelu(call: Call, x: Tensor, bias: Tensor) -> Tensor:
    """Exact, behind a bias."""
    return F.gelu(x + bias)


@op("FastGelu", domain=MICROSOFT)
def fast_gelu(call: Call, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """By tanh, behind a bias where there is one."""
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@op("QuickGelu", domain=MICROSOFT)
def quick_gelu(call: Call, x: Tensor) -> Tensor:
    """x σ(αx)."""
    return x * torch.sigmoid(call.attr("alpha", 1.702) * x)


@op("Swish")
def swish(call: Call, x: Tensor) -> Tensor:
    """x σ(αx)."""
    return x * torch.sigmoid(call.attr("alpha", 1.0) * x)


@op("SwiGLU")
def swiglu(call: Call, gate: Tensor, x: Tensor) -> Tensor:
    """A Swish of one tensor times the other."""
    return swish(call, gate) * x


@op("ScaledSiLU", domain=MICROSOFT)
def scaled_silu(call: Call, x: Tensor, scale: Tensor | None = None) -> Tensor:
    """z σ(z) of a scaled tensor."""
    return F.silu(x * (call.attr("alpha", 1.0) if scale is None else scale))


ACTIVATIONS = {
    "": lambda x, a, b: x,
    "Clip": lambda x, a, b: x.clamp(a, b),
    "HardSigmoid": lambda x, a, b: (x * a + b).clamp(0, 1),
    "HardSwish": lambda x, a, b: F.hardswish(x),
    "LeakyRelu": lambda x, a, b: F.leaky_relu(x, a),
    "Relu": lambda x, a, b: torch.relu(x),
    "Sigmoid": lambda x, a, b: torch.sigmoid(x),
    "Tanh": lambda x, a, b: torch.tanh(x),
}
"""What onnxruntime fuses behind a layer, with its two numbers."""


def fused(call: Call, x: Tensor, *numbers: float) -> Tensor:
    """What stands in a layer's attribute `activation`."""
    name = call.attr("activation", "")
    if name not in ACTIVATIONS:
        raise NotImplementedError(f"the activation {name} in it is not known")
    first, second, *_ = (*numbers, 0.0, 0.0)
    found: Tensor = ACTIVATIONS[name](x, first, second)
    return found
