"""Widths by scores that can be compared across groups: the least damage for what it saves first, or one threshold."""

from collections.abc import Sequence

import numpy as np
from scipy.special import expit

from onnxprune.allocate import Choice, Cost, Widths
from onnxprune.native import F64
from onnxprune.scoring import Scored
from onnxprune.widths import nearest_width

NEAR = 0.98
"""The share of a budget below which a threshold leaves it unused."""


def damages(scored: Scored, widths: Sequence[int]) -> list[float]:
    """The summed scores of the channels that go at each width."""
    scores, order = scored.problem.importance, scored.selection.order
    assert scores is not None
    lost = np.concatenate([[0.0], np.cumsum(scores[order])])
    return [float(lost[len(order) - width]) for width in widths]


def cheapest_first(choices: Sequence[Choice], budget: Cost, target: float, saved: Cost) -> Widths:
    """Lower one group by one allowed width at a time until the budget is met.

    What a step saves depends on the widths of its neighbours, so it is counted anew before each. The least widths must
    meet the budget.
    """
    index = np.array([len(choice.widths) - 1 for choice in choices])
    widths = np.array([choice.widths[-1] for choice in choices], np.int64)
    while budget(widths) > target:
        lower = np.flatnonzero(index > 0).tolist()
        trials = np.repeat(widths[None], len(lower), axis=0)
        trials[np.arange(len(lower)), lower] = [choices[g].widths[index[g] - 1] for g in lower]
        harm = np.array([choices[g].damage[index[g] - 1] - choices[g].damage[index[g]] for g in lower])
        gain = np.maximum(saved(widths) - saved(trials), np.finfo(np.float64).tiny)
        best = int(np.argmin(harm / gain))
        widths, index[lower[best]] = trials[best], index[lower[best]] - 1
    return widths


def by_threshold(
    scores: Sequence[F64 | None], candidates: Sequence[Sequence[int]], budget: Cost, target: float
) -> Widths:
    """Of every group as many units as score above one threshold, the lowest that meets the budget; then what fits.

    Where that leaves more than a fiftieth of the budget, width goes from one group to another as well. Scores are log
    odds of staying. Groups without scores keep their width. The least widths must meet the budget.
    """
    known = [score for score in scores if score is not None]
    steps = np.unique(np.concatenate(known)) if known else np.empty(0)

    def at(threshold: float) -> Widths:
        counts = [w[-1] if s is None else int(np.sum(s > threshold)) for s, w in zip(scores, candidates, strict=True)]
        return np.array([nearest_width(w, n) for n, w in zip(counts, candidates, strict=True)], np.int64)

    low, high = 0, steps.size
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if budget(at(float(steps[middle]))) <= target else (middle + 1, high)
    widths = at(float(steps[low])) if low < steps.size else np.array([w[0] for w in candidates], np.int64)
    widths = _filled(widths, scores, candidates, budget, target)
    while budget(widths) < NEAR * target:
        exchanged = _exchanged(widths, scores, candidates, budget, target)
        if exchanged is None:
            break
        widths = _filled(exchanged, scores, candidates, budget, target)
    return widths


def _exchanged(
    widths: Widths, scores: Sequence[F64 | None], candidates: Sequence[Sequence[int]], budget: Cost, target: float
) -> Widths | None:
    """One group a step wider and another a step narrower: of all that use more of the budget, the likeliest."""
    index = [list(own).index(w) for own, w in zip(candidates, widths.tolist(), strict=True)]
    scored = [g for g, score in enumerate(scores) if score is not None]
    wider = [g for g in scored if index[g] + 1 < len(candidates[g])]
    pairs = [(up, down) for up in wider for down in scored if up != down and index[down] > 0]
    trials = np.repeat(widths[None], len(pairs), axis=0)
    for trial, (up, down) in zip(trials, pairs, strict=True):
        trial[up], trial[down] = candidates[up][index[up] + 1], candidates[down][index[down] - 1]
    used = budget(trials)
    allowed = trials[(used > budget(widths)) & (used <= target)]
    return max(allowed, key=lambda trial: _staying(trial, scores), default=None)


def _staying(widths: Widths, scores: Sequence[F64 | None]) -> float:
    """How many of the units that are kept would stay, by the odds of each."""
    kept = (np.sort(score)[::-1][:w] for w, score in zip(widths, scores, strict=True) if score is not None)
    return sum(float(expit(own).sum()) for own in kept)


def _filled(
    widths: Widths, scores: Sequence[F64 | None], candidates: Sequence[Sequence[int]], budget: Cost, target: float
) -> Widths:
    """Widen groups by one allowed width at a time, where the best units wait, as long as the budget is met."""
    full = set[int]()
    while True:
        wider = [next((n for n in own if n > w), None) for own, w in zip(candidates, widths.tolist(), strict=True)]
        waiting = [
            (float(np.sort(score)[::-1][widths[g] : wide].mean()), g, wide)
            for g, (score, wide) in enumerate(zip(scores, wider, strict=True))
            if score is not None and wide is not None and g not in full
        ]
        if not waiting:
            return widths
        _, best, wide = max(waiting)
        trial = widths.copy()
        trial[best] = wide
        if budget(trial) <= target:
            widths = trial
        else:
            full.add(best)
