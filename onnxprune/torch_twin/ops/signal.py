"""Fourier transforms and windows, determinants, and losses over classes."""

import math

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.torch_twin.registry import Call, op
from onnxprune.torch_twin.tensors import TORCH


def _complex(x: Tensor) -> Tensor:
    """A last axis of one or two as complex numbers."""
    return torch.complex(x[..., 0], x[..., 1] if x.shape[-1] == 2 else torch.zeros_like(x[..., 0]))


@op("DFT", numbers=(1, 2))
def dft(call: Call, x: Tensor, length: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    """Along one axis, there or back; one side of it where the other says nothing new."""
    along = int(axis.item()) if axis is not None else call.attr("axis", 1 if call.opset < 20 else -2)
    along = along % x.ndim
    count = x.shape[along] if length is None else int(length.item())
    back, one_side = bool(call.attr("inverse", 0)), bool(call.attr("onesided", 0))
    if back and one_side:
        return torch.fft.irfft(_complex(x), count if length is not None else None, along).unsqueeze(-1)
    transform = torch.fft.ifft if back else torch.fft.fft
    found = transform(_complex(x), count, along)
    found = found.narrow(along, 0, count // 2 + 1) if one_side else found
    return torch.view_as_real(found.resolve_conj())


@op("STFT", numbers=(1, 3))
def stft(call: Call, x: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None) -> Tensor:
    """(batch, frames, frequencies, 2) of overlapping frames."""
    count = int(length.item()) if length is not None else len(window if window is not None else x[0])
    frames = x.unfold(1, count, int(step.item())).transpose(-1, -2)
    frames = frames if window is None else frames * window[:, None]
    found = torch.fft.fft(_complex(frames), dim=-1)
    found = found[..., : count // 2 + 1] if call.attr("onesided", 1) else found
    return torch.view_as_real(found)


COSINES = {"HannWindow": (0.5, 0.5, 0.0), "HammingWindow": (25 / 46, 21 / 46, 0.0), "BlackmanWindow": (0.42, 0.5, 0.08)}
"""The weights of the cosines of no, one and two periods."""


@op(*COSINES, numbers=(0,))
def window(call: Call, size: Tensor) -> Tensor:
    """A sum of cosines, periodic or symmetric."""
    count = int(size.item())
    period = count if call.attr("periodic", 1) else max(count - 1, 1)
    angles = torch.arange(count, dtype=torch.float64) * (2 * math.pi / period)
    flat, once, twice = COSINES[call.op_type]
    found = flat - once * torch.cos(angles) + twice * torch.cos(2 * angles)
    return found.to(TORCH[ir.DataType(call.attr("output_datatype", 1))])


@op("Det")
def determinant(call: Call, x: Tensor) -> Tensor:
    """Of the last two axes."""
    return torch.linalg.det(x)


@op("Inverse", domain="com.microsoft")
def inverse(call: Call, x: Tensor) -> Tensor:
    """Of the last two axes."""
    return torch.linalg.inv(x)


@op("NegativeLogLikelihoodLoss")
def likelihood_loss(call: Call, scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """What the label's place holds, turned round; the weights of classes are not learned."""
    fixed = None if weights is None else weights.detach().to(scores.dtype)
    skipped = call.attr("ignore_index", -100)
    return F.nll_loss(scores, labels.long(), fixed, ignore_index=skipped, reduction=call.attr("reduction", "mean"))


@op("SoftmaxCrossEntropyLoss")
def cross_entropy_loss(
    call: Call, scores: Tensor, labels: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """That of the softmax of scores, and its logarithm."""
    logarithms = torch.log_softmax(scores, 1)
    return likelihood_loss(call, logarithms, labels, weights), logarithms
