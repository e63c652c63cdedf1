"""A budget to widths: the same share from every group, or the least damage to the outputs (docs/methods.md, *Budget*).

The Lagrangian relaxation of a separable allocation under one budget is that of Shoham & Gersho 1988.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxprune.errors import BudgetNotMet
from onnxprune.widths import nearest_width

Widths = npt.NDArray[np.int64]
Cost = Callable[[npt.NDArray[np.generic]], npt.NDArray[np.float64]]
RELAXATIONS = 60
SWEEPS = 3


@dataclass(frozen=True, eq=False)
class Choice:
    """One group's candidates: allowed widths, ascending to its full width, and the damage of each."""

    widths: Sequence[int]
    damage: Sequence[float]


def uniform(candidates: Sequence[Sequence[int]], cost: Cost, target: float) -> Widths:
    """The smallest common share removed from every group that meets the target, widths rounded to the allowed ones.

    Where coarse widths of many groups fall at once, as many as the target allows keep the last step.
    """
    full = np.array([widths[-1] for widths in candidates], np.int64)
    before = full
    for share in np.linspace(0, 1, 401):
        widths = np.array([nearest_width(w, f * (1 - share)) for w, f in zip(candidates, full, strict=True)], np.int64)
        if cost(widths) <= target:
            return _restored(widths, before, cost, target)
        before = widths
    raise _unreachable(candidates, cost, target)


def _restored(widths: Widths, before: Widths, cost: Cost, target: float) -> Widths:
    """Give groups their width before the last step back, one after the other, as long as the target holds."""
    for g in np.flatnonzero(before > widths):
        tried = widths.copy()
        tried[g] = before[g]
        if cost(tried) <= target:
            widths = tried
    return widths


def least_damage(choices: Sequence[Choice], cost: Cost, target: float) -> Widths:
    """Minimise the summed damage under the budget: Lagrange multiplier by bisection, then fill what is left.

    The cost couples neighbours, so each relaxation sweeps the groups a few times with the others fixed.
    """
    candidates = [choice.widths for choice in choices]
    smallest = np.array([widths[0] for widths in candidates], np.int64)
    if cost(smallest) > target:
        raise _unreachable(candidates, cost, target)
    choices = _scaled(choices)
    low, high, best = 0.0, 1.0, smallest
    while cost(_relaxed(choices, cost, high)) > target and high < 1e12:
        high *= 8
    for _ in range(RELAXATIONS):
        middle = float(np.sqrt(max(low, high * 1e-9) * high))
        widths = _relaxed(choices, cost, middle)
        if cost(widths) <= target:
            high, best = middle, widths
        else:
            low = middle
        if high < low * (1 + 1e-4):
            break
    return _filled(choices, cost, target, best)


def _scaled(choices: Sequence[Choice]) -> list[Choice]:
    """The same choices with a largest damage of 1: what it is counted in must not matter."""
    worst = max((max(choice.damage) for choice in choices), default=0.0) or 1.0
    return [Choice(choice.widths, [damage / worst for damage in choice.damage]) for choice in choices]


def _relaxed(choices: Sequence[Choice], cost: Cost, price: float) -> Widths:
    """Each group in turn takes the width that is best at this price, from full width on."""
    full = np.array([choice.widths[-1] for choice in choices], np.int64)
    whole, widths = float(cost(full)), full.copy()
    for _ in range(SWEEPS):
        before = widths.copy()
        for g, choice in enumerate(choices):
            tried = np.repeat(widths[None], len(choice.widths), axis=0)
            tried[:, g] = choice.widths
            widths[g] = choice.widths[int(np.argmin(np.asarray(choice.damage) + price * cost(tried) / whole))]
        if np.array_equal(before, widths):
            break
    return widths


def _filled(choices: Sequence[Choice], cost: Cost, target: float, widths: Widths) -> Widths:
    """Change one group, or move width from one to another, as long as that lowers the damage within the budget."""
    index = np.array([list(c.widths).index(int(w)) for c, w in zip(choices, widths, strict=True)])
    damage = sum(c.damage[i] for c, i in zip(choices, index, strict=True))
    while True:
        moves = [np.array([d]) for d in _steps(choices, index)] or [np.zeros((1, len(index)), np.int64)]
        trials = np.unique(np.concatenate([index + move for move in moves]), axis=0)
        values = np.array([[c.widths[i] for c, i in zip(choices, trial, strict=True)] for trial in trials])
        allowed = np.flatnonzero(cost(values) <= target)
        totals = [sum(c.damage[i] for c, i in zip(choices, trials[t], strict=True)) for t in allowed]
        if not totals or min(totals) >= damage - 1e-15:
            return np.array([c.widths[i] for c, i in zip(choices, index, strict=True)], np.int64)
        damage, index = min(totals), trials[allowed[int(np.argmin(totals))]]


def _steps(choices: Sequence[Choice], index: npt.NDArray[np.intp]) -> list[npt.NDArray[np.int64]]:
    """One group up to where its damage is less; or so, and another down a step."""
    count = len(choices)
    up = {g: rise for g in range(count) if (rise := _rise(choices[g], int(index[g])))}
    down = [g for g in range(count) if index[g] > 0]
    unit = np.eye(count, dtype=np.int64)
    singles = [rise * unit[g] for g, rise in up.items()]
    pairs = [rise * unit[g] - unit[h] for g, rise in up.items() for h in down if g != h] if count <= 64 else []
    return singles + pairs


def _rise(choice: Choice, index: int) -> int:
    """How many steps up the damage first falls; 0 where it never does."""
    less = [i for i in range(index + 1, len(choice.widths)) if choice.damage[i] < choice.damage[index]]
    return less[0] - index if less else 0


def _unreachable(candidates: Sequence[Sequence[int]], cost: Cost, target: float) -> BudgetNotMet:
    least = float(cost(np.array([w[0] for w in candidates], np.int64)))
    return BudgetNotMet(
        f"the budget of {target:.3f} of the original cannot be reached: with every open group at its least "
        f"width {least:.3f} remain; `onnxprune inspect` tells what is closed and why; --align 1 is finer"
    )
