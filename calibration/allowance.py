"""What sums of wide layers may take: a budget of memory says which get a Gram matrix, and which are solved at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from onnxprune.op_rules.facts import Linear

SUMS, WORK = 16, 48
"""Bytes an element of a Gram matrix: while all layers are summed and scored, and more for the one that is worked on."""
SOLVED = 24
"""Bytes an element of a weight that is solved for from rows, without a Gram matrix."""


@dataclass(frozen=True)
class Allowance:
    """Layers of more than `widest` features keep variances only; of more than `largest` weights, they are not solved.

    These keep their weights, and their bias takes up the means of what was removed (FLAP, An et al. 2024).
    """

    widest: int = 6144
    largest: int = 160_000_000


USUAL = Allowance()


def allowance(linears: Sequence[Linear], memory: int) -> Allowance:
    """Give the narrow layers a Gram matrix first, those of equal width all or none, while they fit into `memory`."""
    widths = sorted(linear.features.shape[1] for linear in linears for _ in range(linear.groups))
    widest = total = 0
    for width, same in groupby(widths):
        total += SUMS * width**2 * sum(1 for _ in same)
        if total + WORK * width**2 > memory:
            break
        widest = width
    return Allowance(widest, memory // SOLVED)
