"""The channel Gram matrix: how the outputs that single units cause overlap.

With x̂_i = Σ_{f∈i} x_f w_f, the part of a layer's output that unit i causes, A_ij = E⟨x̂_i, x̂_j⟩ and
b_i = E⟨x̂_i, y⟩. It is C × C whatever the kernel, and it drives ThiNet
(Luo et al. 2017), LASSO (He et al. 2017) and scaling exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.linalg import LinAlgError, cho_solve, cholesky

from onnxprune.calibration.least_squares import principal
from onnxprune.calibration.statistics import Moments
from onnxprune.criteria.problem import Index, Problem, Reader
from onnxprune.native import F64, Real

_SLAB = 512


@dataclass(frozen=True, eq=False)
class ChannelSystem:
    """E‖y − Σ_i β_i x̂_i‖² = energy − 2bᵀβ + βᵀAβ, with A = `gram` (C, C) and b = `target` (C,)."""

    gram: F64
    target: F64
    energy: float


def channel_system(weight: Real, moments: Moments, channel: Index, width: int) -> ChannelSystem:
    """The system of one layer, `weight` (n, F); features of channel −1 stay as they are, out of the target.

    `moments` may hold inputs of the pruned network against targets of the original one.
    """
    unit = np.where(channel < 0, width, channel)
    features = len(unit)
    member = sparse.csr_array((np.ones(features), (unit, np.arange(features))), shape=(width + 1, features))
    gram = np.zeros((width + 1, width + 1))
    for start in range(0, features, _SLAB):
        slab = slice(start, start + _SLAB)
        overlap = moments.gram[:, slab] * (weight.T @ weight[:, slab])
        gram += (member[:, slab] @ (member @ overlap).T).T
    target = member @ np.einsum("fn,nf->f", moments.cross, weight)
    energy = moments.energy - 2 * target[width] + gram[width, width]
    return ChannelSystem(gram[:width, :width], target[:width] - gram[:width, width], float(energy))


def diagonal_system(reader: Reader, width: int) -> ChannelSystem:
    """The system of a reader without a Gram matrix, its inputs taken as uncorrelated (FLAP)."""
    scores = flap_scores(reader, width)
    return ChannelSystem(np.diag(scores), scores, float(scores.sum()))


def flap_scores(reader: Reader, width: int) -> F64:
    """(C,) Σ_f Var(x_f)·‖W_:f‖² over the features of each unit (FLAP, An et al. 2024)."""
    scores = reader.variances() * reader.squares()
    mine = reader.channel >= 0
    sums: F64 = np.bincount(reader.channel[mine], scores[mine], minlength=width).astype(np.float64)
    return sums


def joint_system(problem: Problem) -> ChannelSystem:
    """The sum over the group's readers, each divided by the energy of its output."""
    gram, target, energy = np.zeros((problem.width, problem.width)), np.zeros(problem.width), 0.0
    for reader in problem.readers:
        if reader.moments is None:
            system = diagonal_system(reader, problem.width)
        else:
            system = channel_system(reader.weight, reader.moments, reader.channel, problem.width)
        gram += system.gram / reader.energy()
        target += system.target / reader.energy()
        energy += system.energy / reader.energy()
    return ChannelSystem(gram, target, energy)


def scale_weights(system: ChannelSystem, kept: Index, ridge: float = 1e-6) -> F64:
    """(F',) w = A_SS⁻¹ b_S, the factor on each kept unit that fits the target best (ThiNet, Luo et al. 2017).

    The relative `ridge` pulls toward 1, and grows until the system can be solved: a dead unit keeps its scale.
    """
    gram = principal(system.gram, kept)
    scale = float(np.mean(gram.diagonal())) if len(kept) else 0.0
    if scale == 0.0:
        return np.ones(len(kept))
    while True:
        try:
            factor = cholesky(gram + ridge * scale * np.eye(len(kept)), lower=True)
        except LinAlgError:
            ridge *= 10
            continue
        weights: F64 = cho_solve((factor, True), system.target[kept] + ridge * scale)
        return weights
