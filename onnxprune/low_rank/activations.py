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
PLACES, HALVINGS = 16, 12
"""Of the one-dimensional search: places that it looks at first, and halvings of the step between them."""


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
    return _searched(expit, z, given, weight)


def nearest_before_tanh(z: Rows, given: Rows, weight: float) -> Rows:
    """By search."""
    return _searched(np.tanh, z, given, weight)


def _searched(function: Callable[[Rows], Rows], z: Rows, given: Rows, weight: float) -> Rows:
    """The better of the two minima there may be between y' and z: one where f is steep, one where it is flat.

    A walk from y' to z in equal steps comes to either; steps that halve lead from there to the bottom, which
    Newton's do not where f bends.
    """
    wanted, stride = function(z), (z - given) / np.float32(PLACES)

    def cost(y: Rows) -> Rows:
        return np.asarray((function(y) - wanted) ** 2 + weight * (y - given) ** 2)

    first, last = _valleys(cost, given, stride)
    _, best = _better(*_bottom(cost, first, stride), *_bottom(cost, last, stride))
    return best


def _valleys(cost: Callable[[Rows], Rows], start: Rows, stride: Rows) -> tuple[Rows, Rows]:
    """The first place and the last of a walk at which the cost had just fallen."""
    first, last, before, falling = start, start, cost(start), np.ones(start.shape, dtype=bool)
    for place in range(1, PLACES + 1):
        here = start + np.float32(place) * stride
        now = cost(here)
        lower = now < before
        falling &= lower
        first, last, before = np.where(falling, here, first), np.where(lower, here, last), now
    return first, last


def _bottom(cost: Callable[[Rows], Rows], start: Rows, stride: Rows) -> tuple[Rows, Rows]:
    """(the least cost about a place, where it is)."""
    least, best = cost(start), start
    for halving in range(HALVINGS):
        step = stride * np.float32(0.5**halving)
        for trial in (best - step, best + step):
            least, best = _better(least, best, cost(trial), trial)
    return least, best


def _better(least: Rows, best: Rows, cost: Rows, trial: Rows) -> tuple[Rows, Rows]:
    """(the lower costs, what has them)."""
    lower = cost < least
    return np.where(lower, cost, least), np.where(lower, trial, best)


FUNCTIONS: dict[str, Callable[[Rows], Array]] = {"Relu": _relu, "Sigmoid": expit, "Tanh": np.tanh}
NEAREST: dict[str, Nearest] = {
    "Relu": nearest_before_relu,
    "Sigmoid": nearest_before_sigmoid,
    "Tanh": nearest_before_tanh,
}
