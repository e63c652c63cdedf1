"""Before a layer is solved: adjust the layer in front of it, so that together they come nearest to the target."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxprune.calibration.collect import Collected
from onnxprune.calibration.frontier import Frontier
from onnxprune.calibration.least_squares import RidgeFactor
from onnxprune.calibration.rows import Positions, read, written
from onnxprune.calibration.sampling import Sampling, held_out
from onnxprune.calibration.statistics import Tally
from onnxprune.dependency import Keep
from onnxprune.descent import Weights, Window, descend
from onnxprune.graph import Array, array_of, replace_constant
from onnxprune.pairs import Pair, taps_under
from onnxprune.weights import from_matrix, to_matrix

MOST_PAIRS, ALL_NUMBERS = 16, 6e7
"""Numbers that the rows of all pairs may hold: each step goes over them a dozen times. More pairs get too few rows."""
LEAST_ROWS_PER_FEATURE = 15
START_RIDGE = 1e-2


def adjust_first(
    pair: Pair,
    pairs: int,
    keep: Keep,
    values: dict[str, ir.Value],
    frontier: Frontier,
    collected: Collected,
    sampling: Sampling,
) -> None:
    """Move the weights of the first layer of a pair, in place; nothing happens where that does not help.

    Runs the step of the second layer on a few batches and leaves the frontier as it was. `pairs` share the time.
    """
    most = _most_rows(pair, keep, pairs)
    solve, judge = _windows(pair, most, keep, frontier, collected, sampling) if most else ([], [])
    if not solve:
        return
    first, second = pair.first, pair.second
    assert first.bias is not None and second.bias is not None
    weight, bias = values[first.linear.weight.name or ""], values[first.bias.name or ""]
    start = _start(solve, to_matrix(first.linear, array_of(weight))[0], array_of(bias), pair, values)
    after, _, _ = descend(solve, judge or solve, start)
    if after is not start:
        replace_constant(weight, from_matrix(first.linear, after.first[None], array_of(weight).shape))
        replace_constant(bias, after.first_bias.reshape(array_of(bias).shape))


def _windows(
    pair: Pair, most: float, keep: Keep, frontier: Frontier, collected: Collected, sampling: Sampling
) -> tuple[list[Window], list[Window]]:
    """The rows of the pair, to solve on and to judge on, in the first batches: what memory and time allow."""
    first, second = pair.first.linear, pair.second
    outputs = keep[second.linear.outputs][0]
    wanted = {v.name or "" for v in (first.x, second.linear.x, second.partner) if v is not None}
    solve: list[Window] = []
    judge: list[Window] = []
    seen = 0
    for batch, here in enumerate(frontier.look(second.wave, sampling.used(second.linear), sorted(wanted))):
        where = sampling.positions(second.linear, here[second.linear.x.name or ""].shape, batch)
        target = collected.targets[second.name][batch][:, outputs]
        held = held_out(len(where), batch)
        for part, rows in ((solve, slice(0, held.start)), (judge, held)):
            if len(where[rows]):
                part.append(_window(pair, here, where[rows], target[rows]))
                seen += len(part[-1].x)
        if seen >= most:
            break
    return solve, judge


def _window(pair: Pair, here: Mapping[str, Array], where: Positions, target: Array) -> Window:
    """The rows of one batch at some positions of the second layer's output."""
    first, second = pair.first.linear, pair.second
    under = taps_under(second, where, here[second.linear.x.name or ""].shape)
    unique, inverse = np.unique(under, return_inverse=True)
    padding = int(unique[0] < 0)
    index = inverse.reshape(under.shape) - padding
    x = read(first, here[first.x.name or ""], unique[padding:])[0]
    beside = np.zeros_like(target)
    if second.partner is not None:
        beside = written(second.linear, here[second.partner.name or ""], where)
    return Window(x, index, target, beside, second.clipped, pair.low, pair.high, pair.leak)


def _most_rows(pair: Pair, keep: Keep, pairs: int) -> float:
    """As many rows as the time allows; none where those would be too few to solve with, as in deep networks."""
    first, second = pair.first.linear, pair.second.linear
    features, hidden, outputs = (int(keep[x].sum()) for x in (first.features, second.features, second.outputs))
    rows = ALL_NUMBERS / pairs / max(features, hidden, outputs, 1)
    return rows if pairs <= MOST_PAIRS and rows >= LEAST_ROWS_PER_FEATURE * features else 0.0


def _start(windows: Sequence[Window], weight: Array, bias: Array, pair: Pair, values: dict[str, ir.Value]) -> Weights:
    """The first layer as it is, the second refitted to it on these rows."""
    second = pair.second
    prior = to_matrix(second.linear, array_of(values[second.linear.weight.name or ""]))[0].astype(np.float64)
    first, first_bias = weight.astype(np.float32), bias.astype(np.float32).reshape(-1)
    sums = Tally(prior.shape[1], len(prior))
    for window in windows:
        hidden = window.hidden(first, first_bias)[0]
        taps = np.stack([hidden[column] for column in window.index.T], axis=2)  # (P, m, T)
        sums.add(taps.reshape(len(taps), -1), window.target - window.partner)
    moments = sums.moments()
    fitted = RidgeFactor(moments.gram, START_RIDGE).solve(moments.cross, prior)
    intercept = moments.mean_y - fitted @ moments.mean_x
    return Weights(first, first_bias, fitted.astype(np.float32), intercept.astype(np.float32))
