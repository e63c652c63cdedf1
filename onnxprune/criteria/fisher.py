"""Fisher pruning (Theis et al. 2018; coupled layers: Liu et al. 2021): the loss that a unit's removal costs."""

from __future__ import annotations

import numpy as np

from onnxprune.native import F64


def damage(gradients: F64) -> F64:
    """(C,) ½·Σ_n g_nk², for g (N, C) the gradient of each sample's loss in the units' gates.

    Squared sample by sample: near a minimum the gradients of the samples cancel out, their squares do not.
    """
    total: F64 = np.einsum("nc,nc->c", gradients, gradients, dtype=np.float64) / 2
    return total
