"""Solve a layer for the sake of the next one: least-squares steps on its weight so that the *next* output fits.

A layer that has lost output channels cannot be judged by those that are left; what counts is what its reader makes
of them. With the reader fixed, the error of the reader's output is a least-squares problem in the layer's weight, up
to the activation between: Gauss–Newton steps, preconditioned with the layer's own Gram matrix, exact step length.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from onnxprune.calibration.least_squares import mean_diagonal
from onnxprune.calibration.rows import Rows
from onnxprune.native import F64
from onnxprune.parallel import each

STEPS = 4
HALVINGS = 4
RIDGE = 1e-2

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


@dataclass(frozen=True, eq=False)
class _Reached:
    """Where a step led: the weights, their squared error, and each window's activation, slope and missing output."""

    weights: Weights
    error: float
    parts: Sequence[tuple[F32, F32, F32]]


def descend(solve: Sequence[Window], judge: Sequence[Window], start: Weights) -> tuple[Weights, float, float]:
    """A few steps on the first layer: its new weights, and the relative error on judging rows before and after.

    Windows are batches of rows, each small enough to stay in the cache; all sums run over them, on all cores. The
    weights come back as they were where the judging rows did not gain.
    """
    factor = _preconditioner(solve)
    now = _reach(solve, start)
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
        moved = _line_search(solve, now, direction.astype(np.float32))
        if moved is None:
            break
        now = moved
    before, after, energy = _reach(judge, start).error, _reach(judge, now.weights).error, _energy(judge)
    gained = after < before
    return now.weights if gained else start, before / energy, (after if gained else before) / energy


def _reach(windows: Sequence[Window], weights: Weights) -> _Reached:
    """What these weights lead to on all rows."""

    def reached(window: Window) -> tuple[F32, F32, F32]:
        hidden, slope = window.hidden(weights.first, weights.first_bias)
        return hidden, slope, _missing(window, _outputs(window, hidden, weights.second) + weights.second_bias)

    parts = each(reached, windows)
    return _Reached(weights, sum(float(np.vdot(missing, missing)) for _, _, missing in parts), parts)


def _energy(windows: Sequence[Window]) -> float:
    """The squared deviation of all targets from their mean."""
    targets = np.concatenate([window.target for window in windows])
    return max(float(np.var(targets, axis=0).sum()) * len(targets), 1e-30)


def _preconditioner(windows: Sequence[Window]) -> tuple[F64, bool]:
    """The factored Gram matrix of the first layer's inputs, a constant one among them."""

    def products(window: Window) -> F32:
        rows = np.concatenate([window.x, np.ones((len(window.x), 1), np.float32)], axis=1)
        return np.asarray(rows.T @ rows)

    gram = sum(each(products, windows), np.zeros(1)) / _positions(windows)
    gram[np.diag_indices_from(gram)] += RIDGE * mean_diagonal(gram) + 1e-12
    return cho_factor(gram, lower=True)  # type: ignore[no-any-return]


def _positions(windows: Sequence[Window]) -> int:
    return sum(len(window.x) for window in windows)


def _outputs(window: Window, hidden: F32, second: F32) -> F32:
    """What the second layer makes of hidden values, without its bias: (P, n)."""
    positions, taps = window.index.shape
    kernel = second.reshape(len(second), -1, taps).transpose(2, 1, 0).reshape(-1, len(second))
    return np.asarray(hidden.take(window.index, axis=0).reshape(positions, -1) @ kernel)


def _missing(window: Window, outputs: F32) -> F32:
    """What the outputs lack; where a Relu clips the target, only what sticks out above zero."""
    total = outputs + window.partner
    plain = window.target - total
    return np.where(window.target > 0, plain, -np.maximum(total, 0)) if window.clipped else plain


def _gradient(windows: Sequence[Window], now: _Reached) -> F64:
    """Descent direction of half the squared error in (weight, bias) of the first layer: (m, F + 1)."""
    second, taps = now.weights.second, windows[0].index.shape[1]
    kernel = second.reshape(len(second), -1, taps)

    def pulled(pair: tuple[Window, tuple[F32, F32, F32]]) -> F64:
        window, (hidden, slope, missing) = pair
        back = np.zeros_like(hidden)
        for tap in range(taps):  # positions under one tap are distinct, but for padding, which is dropped
            back[window.index[:, tap]] += missing @ kernel[:, :, tap]
        pull = (back * slope)[:-1]
        return np.concatenate([pull.T @ window.x, pull.sum(axis=0)[:, None]], axis=1).astype(np.float64)

    total = sum(each(pulled, zip(windows, now.parts, strict=True)), np.zeros(1))
    return np.asarray(total / _positions(windows))


def _line_search(windows: Sequence[Window], now: _Reached, direction: F32) -> _Reached | None:
    """The step that solves the linearised problem, halved until the true error falls; None where it never does."""
    pairs = zip(windows, now.parts, strict=True)
    products = each(lambda pair: _linearised(pair[0], pair[1], now.weights.second, direction), pairs)
    wanted, curvature = (sum(part[i] for part in products) for i in range(2))
    length = np.float32(wanted / max(curvature, 1e-30))
    for _ in range(HALVINGS + 1):
        first = now.weights.first + length * direction[:, :-1]
        tried = replace(now.weights, first=first, first_bias=now.weights.first_bias + length * direction[:, -1])
        reached = _reach(windows, tried)
        if reached.error < now.error:
            return reached
        length /= np.float32(2)
    return None


def _linearised(window: Window, at: tuple[F32, F32, F32], second: F32, direction: F32) -> tuple[float, float]:
    """⟨what is missing, what the direction adds⟩ and ⟨what it adds, itself⟩ where that counts."""
    hidden, slope, missing = at
    change = np.zeros_like(hidden)
    change[:-1] = (window.x @ direction[:, :-1].T + direction[:, -1]) * slope[:-1]
    effect = _outputs(window, change, second)
    counts = ((window.target > 0) | (missing != 0)) if window.clipped else np.ones_like(missing, np.bool_)
    return float(np.vdot(missing, effect)), float(np.vdot(effect * counts, effect))
