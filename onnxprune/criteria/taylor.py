"""First-order Taylor: what the loss would change by if a unit went, to first order (Molchanov et al. 2017)."""

from __future__ import annotations

import numpy as np

from onnxprune.native import F64


def effect(gradients: F64) -> F64:
    """(C,) Σ_n |g_nk|, for g (N, C) the gradient of each sample's loss in the units' gates.

    A gate stands wherever a unit is read, so g is summed over all these places before its size is taken.
    """
    total: F64 = np.abs(gradients).sum(axis=0, dtype=np.float64)
    return total
