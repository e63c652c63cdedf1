"""Rank by scores that were computed from the whole graph beforehand; by magnitude where a group has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxprune.criteria import magnitude
from onnxprune.criteria.problem import Options, Problem, Selection, rank
from onnxprune.native import F64


@dataclass(frozen=True, eq=False)
class Scores:
    """(width,) scores by group name, higher is worth keeping, and what the report should say of them.

    `factors` (width,), also by group: how much of each channel the method left, where it says that.
    """

    by_group: Mapping[str, F64]
    notes: tuple[str, ...] = ()
    factors: Mapping[str, F64] = field(default_factory=dict)


BUDGETED = ("l0",)
"""Criteria whose scores depend on the budget."""


def select(problem: Problem, options: Options) -> Selection:
    """Units by ascending `importance`."""
    if problem.importance is None:
        return magnitude.select(problem, options)
    return Selection(rank(problem.importance, problem), rows=problem.row_count)
