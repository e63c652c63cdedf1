"""The exact path of ½βᵀAβ − bᵀβ + λ‖β‖₁ from a Gram matrix: LARS with the LASSO step (Efron et al. 2004)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnxprune.native import F64

_DEPENDENT = 1e-10
_DRIFT = 1e-9
_TINY = 1e-12
_STEPS_PER_UNIT = 8


@dataclass(frozen=True, eq=False)
class Knot:
    """A point where the support changes: `penalty` λ, `coefficients` β (C,), and `gain` = b_Sᵀ A_SS⁻¹ b_S,
    what least squares without any penalty explains from the units that were active up to here.
    """

    penalty: float
    coefficients: F64
    gain: float


class _Active:
    """The active units, their signs and A_SS⁻¹, updated by one unit at a time."""

    def __init__(self, gram: F64) -> None:
        self.gram = gram
        self.units: list[int] = []
        self.signs = np.zeros(len(gram))
        self._rows, self._inverse = np.empty_like(gram), np.empty_like(gram)

    def join(self, unit: int, sign: float) -> bool:
        """Add `unit`; False where it is a linear combination of the active ones."""
        size = len(self.units)
        inverse = self._inverse[:size, :size]
        column = self.gram[unit, self.units]
        solution = inverse @ column
        schur = self.gram[unit, unit] - float(column @ solution)
        if schur <= _DEPENDENT * self.gram[unit, unit]:
            return False
        _rank_one(inverse, solution, 1 / schur)
        self._inverse[size, :size] = self._inverse[:size, size] = -solution / schur
        self._inverse[size, size] = 1 / schur
        self._rows[size], self.signs[size] = self.gram[unit], sign
        self.units.append(unit)
        return True

    def drop(self, place: int) -> None:
        """Remove the unit at `place`; the last one takes its place."""
        last = len(self.units) - 1
        inverse = self._inverse[: last + 1, : last + 1]
        inverse[[place, last]] = inverse[[last, place]]
        inverse[:, [place, last]] = inverse[:, [last, place]]
        _rank_one(self._inverse[:last, :last], inverse[:last, last], -1 / inverse[last, last])
        self._rows[place], self.signs[place] = self._rows[last], self.signs[last]
        self.units[place] = self.units[last]
        self.units.pop()

    def direction(self) -> tuple[F64, F64]:
        """d = A_SS⁻¹ s in the order of `units`, and A_:S d (C,)."""
        size = len(self.units)
        signs = self.signs[:size]
        step = self._inverse[:size, :size] @ signs
        slope = step @ self._rows[:size]
        if np.abs(slope[self.units] - signs).max(initial=0.0) > _DRIFT:
            # Rank-one updates lose digits where units nearly repeat each other: start over from the matrix.
            self._inverse[:size, :size] = np.linalg.inv(self.gram[np.ix_(self.units, self.units)])
            step = self._inverse[:size, :size] @ signs
            slope = step @ self._rows[:size]
        return step, slope


def lars_path(gram: F64, target: F64) -> Iterator[Knot]:
    """The knots from the largest penalty, where β = 0, down to zero; `gram` (C, C), `target` (C,).

    Units that are zero or depend linearly on active ones never enter. The path is cut after 8·C knots, which only
    degenerate ties reach.
    """
    active, beta, correlation = _Active(gram), np.zeros(len(target)), target.astype(np.float64)
    outside = gram.diagonal() > 0
    penalty = start = float(np.abs(correlation[outside]).max(initial=0.0))
    yield Knot(penalty, beta.copy(), 0.0)
    dropped = -1
    for _ in range(_STEPS_PER_UNIT * len(target)):
        if dropped < 0 and not _join_next(active, outside, correlation, penalty, start):
            outside[:] = False
        if penalty <= _TINY * start or not active.units:
            return
        step, slope = active.direction()
        length = min(penalty, _next_join(outside, correlation, slope, penalty, dropped))
        place, until_drop = _next_drop(beta[active.units], step, active.signs[: len(step)])
        gain = float(target[active.units] @ (beta[active.units] + penalty * step))
        length, dropped = (until_drop, active.units[place]) if until_drop <= length else (length, -1)
        beta[active.units] += length * step
        correlation -= length * slope
        penalty -= length
        if dropped >= 0:
            beta[dropped] = 0.0
            active.drop(place)
            outside[dropped] = True
        yield Knot(penalty, beta.copy(), gain)


def _join_next(active: _Active, outside: np.ndarray, correlation: F64, penalty: float, start: float) -> bool:
    """Let the unit that reached the penalty join; False where none is left that could."""
    while outside.any():
        unit = int(np.argmax(np.where(outside, np.abs(correlation), -1.0)))
        if abs(correlation[unit]) < penalty - 1e-7 * start:
            return True
        outside[unit] = False
        if active.join(unit, float(np.sign(correlation[unit]))):
            return True
    return False


def _next_join(outside: np.ndarray, correlation: F64, slope: F64, penalty: float, dropped: int) -> float:
    """How far until an outside unit's |correlation| meets the falling penalty."""
    lengths = np.full((2, len(correlation)), np.inf)
    for row, side in zip(lengths, (1.0, -1.0), strict=True):
        closing = 1 - side * slope
        able = outside & (closing > _TINY)
        row[able] = np.maximum(penalty - side * correlation[able], 0.0) / closing[able]
    if dropped >= 0:
        # It has just left the side it was on, at distance zero from it.
        lengths[0 if correlation[dropped] > 0 else 1, dropped] = np.inf
    return float(lengths.min(initial=np.inf))


def _next_drop(beta: F64, step: F64, signs: F64) -> tuple[int, float]:
    """The active unit whose coefficient reaches zero first, and how far that is."""
    falling = step * signs < 0
    lengths = np.full(len(beta), np.inf)
    lengths[falling] = np.maximum(-beta[falling] / step[falling], 0.0)
    place = int(np.argmin(lengths))
    return place, float(lengths[place])


def _rank_one(matrix: F64, vector: F64, scale: float) -> None:
    """matrix += scale·vector vectorᵀ, a slab at a time so that the product stays in the cache."""
    scaled = scale * vector
    for start in range(0, len(vector), 64):
        matrix[start : start + 64] += scaled[start : start + 64, None] * vector
