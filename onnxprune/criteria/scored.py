"""Rank by scores that were computed from the whole graph beforehand; by magnitude where a group has none."""

from __future__ import annotations

from onnxprune.criteria import magnitude
from onnxprune.criteria.problem import Options, Problem, Selection, rank


def select(problem: Problem, options: Options) -> Selection:
    """Units by ascending `importance`."""
    if problem.importance is None:
        return magnitude.select(problem, options)
    return Selection(rank(problem.importance, problem), rows=problem.row_count)
