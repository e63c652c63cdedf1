"""Channel pruning by LASSO (He, Zhang, Sun 2017): one exact path gives the units of every width."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxprune.criteria.channel_gram import joint_system
from onnxprune.criteria.lars import Knot, lars_path
from onnxprune.criteria.problem import Index, Options, Problem, Selection, balanced
from onnxprune.criteria.threads import single_threaded
from onnxprune.native import F64


@single_threaded
def select(problem: Problem, options: Options) -> Selection:
    """For width c' the support of the last knot with at most c' nonzeros; units weigh in as if ‖W_i‖ = 1.

    Where that knot has fewer, the units that enter next fill up. The cost is the error of the least-squares
    scales on each knot's units. Rows that must stay balanced take the order of entry alone.
    """
    system, norms = joint_system(problem), _norms(problem)
    path = list(lars_path(system.gram / np.outer(norms, norms), system.target / norms))
    order = balanced(_by_entry(path, problem.dead()), problem.rows)
    if problem.rows is not None:
        return Selection(order, rows=problem.row_count)
    knots = _last_knots(path, problem.width)
    exact = {k: _filled(np.flatnonzero(knot.coefficients), order, k) for k, knot in enumerate(knots)}
    cost = np.array([max(0.0, system.energy - knot.gain) for knot in reversed(knots)])
    return Selection(order, exact, cost)


def _norms(problem: Problem) -> F64:
    """(C,) ‖W_i‖ over all readers, each divided by its energy; 1 where nothing reads the unit."""
    squares = np.zeros(problem.width)
    for reader in problem.readers:
        mine = reader.channel >= 0
        columns = reader.squares()[mine] / reader.energy()
        squares += np.bincount(reader.channel[mine], columns, minlength=problem.width)
    return np.sqrt(np.where(squares > 0, squares, 1.0))


def _last_knots(path: Sequence[Knot], width: int) -> list[Knot]:
    """For each width 0..C the last knot with at most that many nonzeros."""
    nonzeros = np.array([np.count_nonzero(knot.coefficients) for knot in path])
    return [path[np.flatnonzero(nonzeros <= k)[-1]] for k in range(width + 1)]


def _by_entry(path: Sequence[Knot], dead: NDArray[np.bool_]) -> Index:
    """Units in removal order: dead ones, then those never on the path, then the last to enter for good."""
    zero_until = np.zeros(len(dead))
    for place, knot in enumerate(path):
        zero_until[knot.coefficients == 0] = place
    return np.lexsort((-zero_until, ~dead))


def _filled(support: Index, order: Index, width: int) -> Index:
    """`support` and as many of the units that `order` removes last as make `width`."""
    spare = order[~np.isin(order, support)]
    return np.sort(np.concatenate([support, spare[len(spare) - (width - len(support)) :]]))
