"""Solve a layer for the sake of the next one: least-squares steps on its weight so that the *next* output fits.

A layer that has lost output channels cannot be judged by those that are left; what counts is what its reader makes
of them. With the reader fixed, the error of the reader's output is a least-squares problem in the layer's weight, up
to the activation between: Gauss–Newton steps, preconditioned with the layer's own Gram matrix, exact step length.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from onnxprune.calibration.least_squares import mean_diagonal
from onnxprune.calibration.rows import Rows
from onnxprune.calibration.statistics import F64

STEPS = 4
HALVINGS = 4
RIDGE = 1e-2
JUDGES = 8
"""One row in so many only judges whether the steps helped."""

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Window:
    """Rows of a pair of layers, first → activation → second.

    `x` (U, F) inputs of the first at the positions that matter; `index` (P, T) which of them lie under the taps of
    the second at each of its positions, −1 where that is padding; `target`, `partner` (P, n) as in a refit;
    `clipped`: a Relu follows the sum. The activation clips to [`low`, `high`] with slope `leak` below.
    """

    x: Rows
    index: npt.NDArray[np.intp]
    target: F32
    partner: F32
    clipped: bool
    low: float
    high: float
    leak: float

    def hidden(self, weight: F32, bias: F32) -> tuple[F32, F32]:
        """The activation (U + 1, m), its last row zero for padding, and its slope there."""
        y = self.x @ weight.T + bias
        above, below = y > self.low, y < self.high
        slope = np.where(above, below.astype(np.float32), np.float32(self.leak))
        value = np.clip(y, self.low, self.high)
        if self.leak:
            value += np.float32(self.leak) * np.minimum(y - self.low, 0)
        nothing = np.zeros((1, y.shape[1]), np.float32)
        return np.concatenate([value, nothing]), np.concatenate([slope, nothing])


@dataclass(frozen=True, eq=False)
class Weights:
    """The first layer's weight (m, F) and bias (m,), the second's (n, m·T) and (n,)."""

    first: F32
    first_bias: F32
    second: F32
    second_bias: F32


def descend(window: Window, start: Weights) -> tuple[Weights, float, float]:
    """A few steps on the first layer: its new weights, and the relative error on judging rows before and after.

    The weights come back as they were where the judging rows did not gain.
    """
    solve, judge = _split(window)
    factor = _preconditioner(window.x)
    now, error = start, _error(solve, start)
    direction = previous = None
    for _ in range(STEPS):
        gradient = _gradient(solve, now)
        scaled = cho_solve(factor, gradient.T).T
        if direction is not None and previous is not None:
            turn = np.vdot(gradient - previous[0], scaled) / max(np.vdot(previous[0], previous[1]), 1e-30)
            direction = scaled + max(0.0, float(turn)) * direction
        else:
            direction = scaled
        previous = gradient, scaled
        moved = _line_search(solve, now, direction.astype(np.float32), error)
        if moved is None:
            break
        now, error = moved
    before, after = _error(judge, start), _error(judge, now)
    energy = max(float(np.var(judge.target, axis=0).sum()) * len(judge.target), 1e-30)
    return (now, before / energy, after / energy) if after < before else (start, before / energy, before / energy)


def _split(window: Window) -> tuple[Window, Window]:
    """The last rows judge: they are of other inputs than the first."""
    cut = len(window.target) - max(1, len(window.target) // JUDGES)
    parts = (slice(0, cut), slice(cut, None))
    return tuple(  # type: ignore[return-value]
        replace(window, index=window.index[p], target=window.target[p], partner=window.partner[p]) for p in parts
    )


def _preconditioner(x: Rows) -> tuple[F64, bool]:
    """The factored Gram matrix of the first layer's inputs, a constant one among them."""
    ones = np.ones((len(x), 1), np.float32)
    rows = np.concatenate([x, ones], axis=1)
    gram = (rows.T @ rows).astype(np.float64) / len(rows)
    gram[np.diag_indices_from(gram)] += RIDGE * mean_diagonal(gram) + 1e-12
    return cho_factor(gram, lower=True)  # type: ignore[no-any-return]


def _outputs(window: Window, hidden: F32, second: F32) -> F32:
    """What the second layer makes of hidden values, without its bias: (P, n)."""
    total = np.zeros((len(window.index), len(second)), np.float32)
    taps = window.index.shape[1]
    kernel = second.reshape(len(second), -1, taps)
    for tap in range(taps):
        total += hidden[window.index[:, tap]] @ kernel[:, :, tap].T
    return total


def _missing(window: Window, outputs: F32) -> F32:
    """What the outputs lack; where a Relu clips the target, only what sticks out above zero."""
    total = outputs + window.partner
    plain = window.target - total
    return np.where(window.target > 0, plain, -np.maximum(total, 0)) if window.clipped else plain


def _error(window: Window, weights: Weights) -> float:
    missing = _missing(
        window,
        _outputs(window, window.hidden(weights.first, weights.first_bias)[0], weights.second) + weights.second_bias,
    )
    return float(np.vdot(missing, missing))


def _gradient(window: Window, weights: Weights) -> F64:
    """Descent direction of half the squared error in (weight, bias) of the first layer: (m, F + 1)."""
    hidden, slope = window.hidden(weights.first, weights.first_bias)
    missing = _missing(window, _outputs(window, hidden, weights.second) + weights.second_bias)
    back = np.zeros_like(hidden)
    taps = window.index.shape[1]
    kernel = weights.second.reshape(len(weights.second), -1, taps)
    for tap in range(taps):  # positions under one tap are distinct, but for padding, which is dropped
        back[window.index[:, tap]] += missing @ kernel[:, :, tap]
    pulled = (back * slope)[:-1]
    return np.concatenate([pulled.T @ window.x, pulled.sum(axis=0)[:, None]], axis=1).astype(np.float64) / len(window.x)


def _line_search(window: Window, now: Weights, direction: F32, error: float) -> tuple[Weights, float] | None:
    """The step that solves the linearised problem, halved until the true error falls; None where it never does."""
    hidden, slope = window.hidden(now.first, now.first_bias)
    missing = _missing(window, _outputs(window, hidden, now.second) + now.second_bias)
    change = np.zeros_like(hidden)
    change[:-1] = (window.x @ direction[:, :-1].T + direction[:, -1]) * slope[:-1]
    effect = _outputs(window, change, now.second)
    counts = ((window.target > 0) | (missing != 0)) if window.clipped else np.ones_like(missing, np.bool_)
    length = float(np.vdot(missing, effect)) / max(float(np.vdot(effect * counts, effect)), 1e-30)
    for _ in range(HALVINGS + 1):
        tried = replace(
            now,
            first=now.first + np.float32(length) * direction[:, :-1],
            first_bias=now.first_bias + np.float32(length) * direction[:, -1],
        )
        reached = _error(window, tried)
        if reached < error:
            return tried, reached
        length /= 2
    return None
