"""A linear layer with more inputs than there is room for sums of: its moments are told from few rows."""

from dataclasses import dataclass

import numpy as np

from onnxprune.calibration.least_squares import mean_diagonal, ridge_solve
from onnxprune.native import F32, F64

MOST_SHRUNK = 0.999
"""δ at most, where rows tell next to nothing."""


@dataclass(frozen=True, eq=False)
class FewRows:
    """Centred inputs X (N, F), their means (F,), the kernel XXᵀ (N, N) and the mean variance m."""

    x: F64
    mean: F64
    kernel: F64
    variance: float

    def refit(self, targets: F64, prior: F64, rho: float) -> F64:
        """The weight (n, F) for centred targets (N, n), pulled toward `prior` by a ridge relative to m.

        The dual form of `least_squares.refit`: prior + (Y − X prior)ᵀ(XXᵀ + Nρm·I)⁻¹X.
        """
        missing = (targets - self.x @ prior.T).T
        ridge = len(self.x) * rho * self.variance
        dual = ridge_solve(self.kernel, missing, np.zeros_like(missing), ridge, mean_diagonal(self.kernel))
        weight: F64 = prior + dual @ self.x
        return weight

    def spread(self, weight: F64) -> F64:
        """(n, n) how outputs of a weight (n, F) vary: W(G + ρmI)Wᵀ, which is nearest to the truth but for a factor."""
        outputs = self.x @ weight.T
        ridge = self.variance * self._shrinkage()
        return np.asarray(outputs.T @ outputs / len(outputs) + ridge * (weight @ weight.T))

    def _shrinkage(self) -> float:
        """ρ. The fewer the rows, the larger: products come near to singular vectors.

        Ledoit and Wolf 2004 (A well-conditioned estimator for large-dimensional covariance matrices): nearest to the
        true moments is (1 − δ)G + δmI, δ the share of noise in what G is off from mI, so that ρ = δ/(1 − δ).
        """
        count, features = self.x.shape
        square = float(np.vdot(self.kernel, self.kernel)) / count**2
        noise = (float(np.mean(self.kernel.diagonal() ** 2)) - square) / count
        share = min(noise / max(square - self.variance**2 * features, 1e-30), MOST_SHRUNK)
        return float(share / (1 - share))


def few_rows(inputs: F32) -> FewRows:
    """Of rows (N, F)."""
    x = inputs.astype(np.float64)
    mean = x.mean(axis=0)
    x -= mean
    kernel = x @ x.T
    return FewRows(x, mean, kernel, float(np.trace(kernel)) / x.size)
