"""Atoms to units and blocks that can go: tie further and close, until every constraint holds."""

from collections.abc import Sequence

from onnxprune.balance import balance_ties, product_ties, with_cells
from onnxprune.conflicts import conflicts
from onnxprune.labels import Atoms
from onnxprune.units import Constraints, Units, join, with_levels


def resolve(count: int, given: Constraints, factored: Sequence[Atoms], places: Sequence[Atoms]) -> Units:
    """Join tied atoms; then tie further, until factored axes and grouped convolutions can lose blocks and stay whole.

    `factored` are the arrays of atoms of tensors that spread one axis over several, `places` those of all tensors.
    Ties and closures only grow, so this ends.
    """
    ties, fixed = list(given.ties), list(given.fixed)
    while True:
        units = join(count, ties, fixed)
        if given.balanced:
            extra = product_ties(given.balanced, factored, units) or balance_ties(given.balanced, places, units)
            if extra:
                ties += extra
                continue
        units, stuck = with_levels(units, factored, given.lines)
        more, closed = ([], stuck) if stuck else conflicts(given.sizes, given.follows, units)
        if not (more or closed):
            return with_cells(units, given.balanced)
        ties, fixed = ties + more, fixed + closed
