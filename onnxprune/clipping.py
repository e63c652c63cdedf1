"""Solve a layer whose output a Relu clips: where the target is negative, any negative output is as good as another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.calibration.rows import Rows
from onnxprune.calibration.statistics import Moments
from onnxprune.native import F64
from onnxprune.parallel import LANES, each

ROUNDS = 4
ROWS_PER_FEATURE = 60
"""With fewer rows the slack is mostly noise of its own, and trusted in full it makes the fit diverge."""
PIECE = 512
"""Rows, at most: few enough that what is computed of them stays in the cache."""
LEAST_TRUST = 0.25
"""Less gains next to nothing, and wide layers, which have the fewest rows, cost the most."""


@dataclass(frozen=True, eq=False)
class ClippedRows:
    """Some rows: inputs `x` (k, F), targets of the clipped sum (k, n), and what is added to the output (k, n)."""

    x: Rows
    target: Rows
    offset: Rows


Slack = Callable[[ClippedRows, Rows], Rows]
"""(rows, what the sum gives there) → how far their target may move; it may write into the second."""


def clipped_slack(part: ClippedRows, given: Rows) -> Rows:
    """How far the target may move toward what the Relu is given: to it where both are negative, else to zero."""
    slack = np.minimum(given, 0, out=given) - part.target
    slack[part.target > 0] = 0
    return np.asarray(slack)


def alternate(
    rows: Sequence[ClippedRows],
    moments: Moments,
    refit: Callable[[F64], F64],
    start: tuple[F64, F64],
    slacks: Sequence[Slack] = (clipped_slack,) * ROUNDS,
) -> tuple[F64, F64]:
    """Weight (n, F) and bias (n,) nearer to the target behind the activation, from a plain fit `start`.

    By turns: where another output is as good as the target, ask only for what the layer does not give yet; refit to
    that. `moments` are those of the plain fit, and `refit` makes a weight of cross moments as that did; the rows, some
    of those summed there, tell what the slack adds to the cross moments. Counted by their share of the sums, they alone
    are freed of the targets and each round lowers the common error; counted in full they speak for all rows, which
    takes enough of them.
    """
    count = sum(len(part.x) for part in rows)
    trust = max(count / max(moments.count, 1), min(1.0, count / (ROWS_PER_FEATURE * max(len(moments.mean_x), 1))))
    if trust < LEAST_TRUST:
        return start
    centred = _pieces(rows, moments.mean_x.astype(np.float32))
    now = start
    for slack in slacks:
        now = _refitted(centred, trust / max(count, 1), moments, refit, slack, now)
    return now


def _pieces(rows: Sequence[ClippedRows], mean: Rows) -> list[ClippedRows]:
    """The rows in as many pieces as keep all lanes busy, each worth a call; inputs centred."""
    x, target, offset = (np.concatenate([getattr(part, name) for part in rows]) for name in ("x", "target", "offset"))
    x -= mean
    count = LANES * -(-len(x) // (LANES * PIECE))
    return [ClippedRows(*parts) for parts in zip(*(np.array_split(a, count) for a in (x, target, offset)), strict=True)]


def _refitted(
    rows: Sequence[ClippedRows],
    each_row: float,
    moments: Moments,
    refit: Callable[[F64], F64],
    slack: Slack,
    now: tuple[F64, F64],
) -> tuple[F64, F64]:
    """One round: the fit to the target plus the slack that the outputs of `now` leave, a row counted `each_row`.

    The inputs of `rows` are centred here.
    """
    weight, bias = now
    middle = (bias + weight @ moments.mean_x).astype(np.float32)
    across = weight.T.astype(np.float32)

    def products(part: ClippedRows) -> tuple[Rows, Rows]:
        moved = slack(part, part.x @ across + (middle + part.offset))
        return part.x.T @ moved, moved.sum(axis=0)

    found = each(products, rows)
    cross, total = (each_row * sum((pair[i].astype(np.float64) for pair in found), np.zeros(1)) for i in range(2))
    weight = refit(moments.cross + cross)
    return weight, moments.mean_y + total - weight @ moments.mean_x
