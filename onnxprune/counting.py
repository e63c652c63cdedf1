"""What a budget counts, and what a runtime has to do, over widths of open groups and sizes of products."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxprune.allocate import Cost
from onnxprune.costs import CostModel, ProductCost, activation_cost, product_cost
from onnxprune.dependency import Analysis, Group
from onnxprune.ranks import Factorable

PER_WEIGHT, PER_NUMBER = 18.0, 4.0
"""Multiply–adds in the time that a weight and a number of an activation take (docs/decisions/0031)."""


@dataclass(frozen=True, eq=False)
class Counts:
    """Counts over choices (…, C): the widths of some groups and, behind them, sizes of products; other groups whole."""

    analysis: Analysis
    groups: Sequence[Group]
    costs: CostModel
    products: Sequence[Factorable] = ()

    def share(self, kind: str) -> Cost:
        """The budget's count, multiply–adds ("macs") or parameters, as a share of the original."""
        whole = self.costs.whole(kind)
        alone = self.at_widths(self.costs.macs if kind == "macs" else self.costs.params)
        saved = self._saved(kind)
        return lambda chosen: np.asarray((alone(chosen) - saved(chosen)) / whole)

    def effort(self) -> Cost:
        """What one sample takes a runtime, roughly, in multiply–adds.

        Choices of as many multiply–adds differ in time: late layers have large weights for few positions, and a
        product has a value in between. The roofline model (Williams, Waterman & Patterson 2009), its parts added.
        """
        costs, numbers = self.costs, activation_cost(self.analysis)
        alone = self.at_widths(lambda w: costs.macs(w) + PER_WEIGHT * costs.weights(w) + PER_NUMBER * numbers(w))
        macs, weights, between = self._saved("macs"), self._saved("params"), self._between()
        return lambda chosen: np.asarray(
            alone(chosen) - macs(chosen) - PER_WEIGHT * weights(chosen) + 2 * PER_NUMBER * between(chosen)
        )

    def at_widths(self, count: Cost) -> Cost:
        """A count over the widths of all groups as one over choices."""
        return lambda chosen: np.asarray(count(self._widths(chosen)))

    def _widths(self, chosen: np.ndarray) -> np.ndarray:
        """(…, groups) the widths of all groups."""
        full = self.costs.full
        every = np.broadcast_to(full, (*chosen.shape[:-1], full.size)).astype(chosen.dtype)
        every[..., self._index] = chosen[..., : len(self.groups)]
        return every

    @cached_property
    def _index(self) -> np.ndarray:
        """Where the groups lie among all."""
        place = {id(group): i for i, group in enumerate(self.analysis.groups)}
        return np.array([place[id(group)] for group in self.groups], np.intp)

    def _saved(self, kind: str) -> Cost:
        """What the products save at these widths."""
        if not self.products:
            return lambda chosen: np.zeros(chosen.shape[:-1])
        pairs, (columns, rows) = self._pairs, self._kept

        def saved(chosen: np.ndarray) -> np.ndarray:
            kept = self._at_sizes(columns, chosen), self._at_sizes(rows, chosen)
            return pairs.saved(self._widths(chosen), kept, kind)

        return saved

    @cached_property
    def _pairs(self) -> ProductCost:
        return product_cost(self.analysis, [one.layer.linear for one in self.products])

    @cached_property
    def _kept(self) -> tuple[np.ndarray, np.ndarray]:
        """(P, sizes) what counts for each column, and for each row, of the products' weights."""
        columns, rows = zip(*(one.table() for one in self.products), strict=True)
        return np.stack(columns), np.stack(rows)

    def _between(self) -> Cost:
        """The numbers that first factors hand to second ones, of one sample."""
        table = np.stack([one.over_sizes(one.between) for one in self.products]) / max(self.analysis.trace.batch, 1)
        return lambda chosen: np.asarray(self._at_sizes(table, chosen).sum(-1))

    def _at_sizes(self, table: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """(…, P) what a table (P, sizes) holds for the sizes of choices."""
        sizes = chosen[..., len(self.groups) :].astype(np.intp)
        return np.asarray(table[np.arange(len(self.products)), sizes])
