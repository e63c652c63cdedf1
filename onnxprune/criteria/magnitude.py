"""Weight magnitude: the norm of the filter that produces a unit (Li et al. 2017)."""

from __future__ import annotations

import numpy as np

from onnxprune.criteria.problem import Options, Problem, Selection, rank
from onnxprune.errors import BadInput
from onnxprune.native import F64

AT_ONCE = 8_000_000
"""Bytes of a weight that are looked at together."""


def select(problem: Problem, options: Options) -> Selection:
    """Units by the norm of their rows over all writers; by their readers' columns where nothing writes them."""
    return Selection(rank(_norms(problem, options.norm), problem), rows=problem.row_count)


def _norms(problem: Problem, norm: str) -> F64:
    if norm not in ("l1", "l2"):
        raise BadInput(f"magnitude knows no norm {norm!r}: use l1 or l2")
    power = 1 if norm == "l1" else 2
    total = np.zeros(problem.width)
    for writer in problem.writers:
        rows = writer.weight.reshape(problem.width, -1)
        parts = np.array_split(rows, max(1, min(len(rows), rows.nbytes // AT_ONCE)))
        total += np.concatenate([(np.abs(part.astype(np.float64)) ** power).sum(axis=1) for part in parts])
    if problem.writers:
        return total
    for reader in problem.readers:
        mine = reader.channel >= 0
        columns = (np.abs(reader.weight) ** power).sum(axis=0)
        total += np.bincount(reader.channel[mine], columns[mine], minlength=problem.width)
    return total
