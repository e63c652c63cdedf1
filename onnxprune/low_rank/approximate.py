"""A block of a layer solved for a weight of low rank, by any method (docs/methods.md, *Low-rank layers*)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from onnxprune.calibration.least_squares import RIDGES, RidgeFactor
from onnxprune.calibration.rows import Rows
from onnxprune.clipping import ClippedRows, alternate
from onnxprune.graph import Array
from onnxprune.low_rank.activations import FUNCTIONS, NEAREST, Nearest
from onnxprune.low_rank.factors import Factors, Responses, by_singular_values
from onnxprune.native import F64
from onnxprune.solve import PLENTY, Fit

WEIGHTS = (0.01, 0.03, 0.1, 0.3, 1.0)
"""λ, rising to 1 as in Zhang et al. 2015, who begin at 0.01."""
ROUNDS = 4
"""Turns at each λ."""
AS_ROWS = 8192
"""Rows that the alternation goes over again and again."""

Approximation = tuple[Factors, F64]
"""A product, and the bias that goes with it."""


def lrd(fit: Fit | None, prior: F64, bias: F64, rank: int, activation: str) -> Approximation:
    """The singular vectors of the weight as it is; no data."""
    return by_singular_values(prior, rank), bias


def response(fit: Fit | None, prior: F64, bias: F64, rank: int, activation: str) -> Approximation:
    """What gives the original's outputs best from the inputs that the layer will be given."""
    assert fit is not None
    factors = Responses(fit.weight, fit.spread(fit.weight)).factors(rank)
    return factors, fit.intercept(factors.product())


def activation_aware(fit: Fit | None, prior: F64, bias: F64, rank: int, activation: str) -> Approximation:
    """What does so behind the activation (Zhang et al. 2015).

    The linear one where no known activation follows, or where rows held out say that it is nearer.
    """
    assert fit is not None
    start, shift = response(fit, prior, bias, rank, activation)
    nearest, moments, factor = NEAREST.get(activation), fit.moments, fit.factor
    if nearest is None or moments is None or factor is None:
        return start, shift
    if moments.count >= PLENTY * len(moments.mean_x):  # then a weak one, which does not slow the turns down
        factor = RidgeFactor(moments.gram, RIDGES[0])
    last = [start]

    def refit(cross: F64) -> F64:
        # Toward where it stands: toward the original weight, which gives the original's outputs, not what is asked.
        weight = factor.solve(cross, last[0].product())
        last[0] = Responses(weight, fit.spread(weight)).factors(rank)
        return last[0].product()

    slacks = [partial(_slack, nearest, weight) for weight in WEIGHTS for _ in range(ROUNDS)]
    _, moved = alternate(fit.rows, moments, refit, (start.product(), shift), slacks)
    tried = ((start, shift), (last[0], moved))
    return min(tried, key=lambda one: _missing(fit.judges, FUNCTIONS[activation], *one))


def _missing(judges: Sequence[ClippedRows], function: Callable[[Rows], Array], factors: Factors, bias: F64) -> float:
    """The squared error behind the activation, on rows held out."""
    product, total = factors.product(), 0.0
    for part in judges:
        given = part.x @ product.T + bias + part.offset
        missing = function(part.target) - function(given.astype(np.float32))
        total += float(np.sum(missing**2, dtype=np.float64))
    return total


def _slack(nearest: Nearest, weight: float, part: ClippedRows, given: Rows) -> Rows:
    return np.asarray(nearest(part.target, given, weight) - part.target)


METHODS: Mapping[str, Callable[[Fit | None, F64, F64, int, str], Approximation]] = {
    "lrd": lrd,
    "response": response,
    "as": activation_aware,
}


def solver(method: str, init: str = "as") -> str:
    """The method that finds the factors layer by layer: for `ger`, which trains them afterwards, its start."""
    return method if method in METHODS else {"as": "as", "svd": "lrd"}[init]
