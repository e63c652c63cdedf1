"""Weights to start from when nothing of the trained ones is to be used."""

from collections.abc import Collection, Mapping
from math import sqrt

import torch
from torch import Tensor


def reinit(parameters: Mapping[str, Tensor], fans: Mapping[str, int], biases: Collection[str], seed: int) -> None:
    """Draw the named weights anew (He et al. 2015: variance 2 over the inputs of an output); biases become zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in parameters.items():
            if name in fans:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * sqrt(2 / fans[name]))
            elif name in biases:
                parameter.zero_()
