"""Fisher's widths: one step after the other, always the one whose damage is least for what it saves."""

from collections.abc import Sequence

import numpy as np

from onnxprune.allocate import Choice, Cost, Widths
from onnxprune.scoring import Scored


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
