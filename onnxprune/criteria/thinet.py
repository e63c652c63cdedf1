"""ThiNet (Luo, Wu, Lin 2017) on the exact channel Gram matrix, with no sampling of rows or locations."""

from __future__ import annotations

import numpy as np

from onnxprune.criteria.channel_gram import ChannelSystem, joint_system
from onnxprune.criteria.problem import Index, Options, Problem, Selection
from onnxprune.criteria.threads import single_threaded
from onnxprune.criteria.turns import Turns
from onnxprune.native import F64

_DEPENDENT = 1e-10


@single_threaded
def select(problem: Problem, options: Options) -> Selection:
    """Greedy removal by J(T) = ‖Σ_{i∈T} x̂_i‖², or forward selection with refit where `options.forward`."""
    system = joint_system(problem)
    if options.forward:
        return _forward(system, problem)
    return _backward(system.gram, problem)


def _backward(gram: F64, problem: Problem) -> Selection:
    """Each step removes the unit with the least J(T ∪ j) = J(T) + 2·(A1_T)_j + A_jj."""
    turns, dead, diagonal = Turns(problem.width, problem.rows), problem.dead(), gram.diagonal()
    overlap, cost = np.zeros(problem.width), np.zeros(problem.width + 1)
    for step in range(problem.width):
        increase = 2 * overlap + diagonal
        unit = turns.take(np.where(dead, -np.inf, increase))
        cost[step + 1] = max(0.0, cost[step] + increase[unit])
        overlap += gram[unit]
    return Selection(np.array(turns.taken, dtype=np.intp), cost=cost, rows=problem.row_count)


def _forward(system: ChannelSystem, problem: Problem) -> Selection:
    """Orthogonal matching pursuit, argmax r_j²/A_jj with r = b − A_:S w (the TPAMI version of ThiNet).

    The Cholesky factor of A_SS grows by one row a step; that row against the residual also gives the error of
    the least-squares scales, which is the cost.
    """
    turns, diagonal, dead = Turns(problem.width, problem.rows), system.gram.diagonal(), problem.dead()
    factor, remaining = np.zeros_like(system.gram), system.target.copy()
    errors = np.full(problem.width + 1, system.energy)
    floor = _DEPENDENT * max(diagonal.max(initial=0.0), np.finfo(float).tiny)
    for step in range(problem.width):
        scores = -(remaining**2) / np.maximum(diagonal, floor)
        unit = turns.take(np.where(dead, np.inf, scores))
        row = system.gram[unit] - factor[:step, unit] @ factor[:step]
        errors[step + 1] = errors[step]
        if row[unit] > floor:
            factor[step] = row / np.sqrt(row[unit])
            gain = remaining[unit] / np.sqrt(row[unit])
            remaining -= gain * factor[step]
            errors[step + 1] -= gain**2
    order: Index = np.array(turns.taken[::-1], dtype=np.intp)
    return Selection(order, cost=np.maximum(errors[::-1], 0.0), rows=problem.row_count)
