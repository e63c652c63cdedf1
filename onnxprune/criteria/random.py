"""Random removal: the baseline every criterion has to beat."""

from __future__ import annotations

import numpy as np

from onnxprune.criteria.problem import Options, Problem, Selection, rank


def select(problem: Problem, options: Options) -> Selection:
    """A permutation drawn from the problem's seed and the group's name."""
    entropy = [problem.seed, *problem.group.encode()]
    scores = np.random.default_rng(entropy).random(problem.width)
    return Selection(rank(scores, problem), rows=problem.row_count)
