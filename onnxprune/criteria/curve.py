"""The held-out error of a group against its width, which budgets are allocated by (docs/methods.md, *Budget*)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.calibration.least_squares import held_out_error, refit
from onnxprune.calibration.statistics import Moments
from onnxprune.criteria.channel_gram import flap_scores
from onnxprune.criteria.problem import Index, Problem, Reader, Selection
from onnxprune.native import F64

CURVE_RIDGE = 1e-2


def error_curve(
    problem: Problem,
    held: Sequence[Moments | None],
    selection: Selection,
    widths: Sequence[int],
    rho: float = CURVE_RIDGE,
) -> F64:
    """(len(widths),) the readers' normalised errors after a refit on the kept units, summed, judged on `held`.

    `held` has the held-out moments of each reader in order; a reader that lacks either kind of moments counts with
    the share of its diagonal scores that goes (FLAP). In-sample curves flatter: half the inputs kept at 2.7 rows a
    feature, .43 in sample and .72 held out.
    """
    kept_units = [selection.keep(width) for width in widths]
    pairs = list(zip(problem.readers, held, strict=True))
    errors = [
        sum(_error(reader, moments, kept, problem.width, rho) for reader, moments in pairs) for kept in kept_units
    ]
    return np.array(errors, dtype=np.float64)


def _error(reader: Reader, held: Moments | None, kept: Index, width: int, rho: float) -> float:
    if reader.moments is None or held is None:
        scores = flap_scores(reader, width)
        return float(scores.sum() - scores[kept].sum()) / reader.energy()
    features = np.flatnonzero((reader.channel < 0) | np.isin(reader.channel, kept))
    weight = refit(reader.moments.gram, reader.moments.cross, reader.weight, features, rho)
    return max(0.0, held_out_error(reader.moments, held, weight, features)) / (held.energy or 1.0)
