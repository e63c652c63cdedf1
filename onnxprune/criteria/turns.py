"""Whose turn it is: a greedy loop takes one unit of every row before any row gives a second one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxprune.criteria.problem import Index
from onnxprune.native import F64


class Turns:
    """Keeps a greedy choice balanced over `rows` (C,); `taken` lists the units in the order they went."""

    def __init__(self, width: int, rows: Index | None) -> None:
        self.taken: list[int] = []
        self._rows = rows
        self._free: NDArray[np.bool_] = np.ones(width, dtype=bool)
        self._open = self._free.copy()

    def take(self, scores: F64) -> int:
        """The free unit of least score (C,) whose row is still open this round; ties go to the lowest index."""
        candidates = np.flatnonzero(self._open)
        unit = int(candidates[np.argmin(scores[candidates])])
        self.taken.append(unit)
        self._free[unit] = self._open[unit] = False
        if self._rows is not None:
            self._open &= self._rows != self._rows[unit]
        if not self._open.any():
            self._open = self._free.copy()
        return unit
