"""What a layer's output goes through, and the outputs that are as good as its target behind it.

Zhang et al. 2015 (Accelerating very deep convolutional networks, section 3.2): for a target z and an output y', the
y that minimises (f(z) − f(y))² + λ(y − y')², number by number.
"""

from collections.abc import Callable

import numpy as np
from scipy.special import expit

from onnxprune.calibration.rows import Rows
from onnxprune.graph import Array

Nearest = Callable[[Rows, Rows, float], Rows]
"""(z, y', λ) → y."""
STEPS, TRIALS = 12, 9
"""Of the one-dimensional search: Newton's steps, and the places that it may start from."""


def _relu(y: Rows) -> Rows:
    return np.maximum(y, 0)


def nearest_before_relu(z: Rows, given: Rows, weight: float) -> Rows:
    """The closed form: the better of a negative y and of one that is not."""
    wanted = np.maximum(z, 0)
    below, above = np.minimum(given, 0), np.maximum((weight * given + wanted) / (1 + weight), 0)
    costs = [(np.maximum(y, 0) - wanted) ** 2 + weight * (y - given) ** 2 for y in (below, above)]
    return np.where(costs[0] <= costs[1], below, above)


def nearest_before_sigmoid(z: Rows, given: Rows, weight: float) -> Rows:
    """By search."""
    return _searched(expit, lambda s: s * (1 - s), z, given, weight)


def nearest_before_tanh(z: Rows, given: Rows, weight: float) -> Rows:
    """By search."""
    return _searched(np.tanh, lambda t: 1 - t * t, z, given, weight)


def _searched(
    function: Callable[[Rows], Rows], slope: Callable[[Rows], Rows], z: Rows, given: Rows, weight: float
) -> Rows:
    """The best of some places between y' and z, where the minimum lies, and Gauss–Newton steps on from there."""
    wanted = function(z)

    def cost(y: Rows) -> Rows:
        return np.asarray((function(y) - wanted) ** 2 + weight * (y - given) ** 2)

    best, least = given, cost(given)
    for share in np.linspace(0, 1, TRIALS)[1:]:
        trial = given + np.float32(share) * (z - given)
        least, best = _better(best, least, trial, cost(trial))
    for _ in range(STEPS):
        values = function(best)
        steep = slope(values)
        step = (steep * (wanted - values) + weight * (given - best)) / (steep * steep + weight)
        for scale in (1.0, 0.25):
            trial = best + np.float32(scale) * step
            least, best = _better(best, least, trial, cost(trial))
    return best


def _better(best: Rows, least: Rows, trial: Rows, cost: Rows) -> tuple[Rows, Rows]:
    """(the lower costs, what has them)."""
    lower = cost < least
    return np.where(lower, cost, least), np.where(lower, trial, best)


FUNCTIONS: dict[str, Callable[[Rows], Array]] = {"Relu": _relu, "Sigmoid": expit, "Tanh": np.tanh}
NEAREST: dict[str, Nearest] = {
    "Relu": nearest_before_relu,
    "Sigmoid": nearest_before_sigmoid,
    "Tanh": nearest_before_tanh,
}
