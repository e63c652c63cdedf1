"""What sums of wide layers may take: a budget of memory says which get a Gram matrix, and which are solved at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from onnxprune.op_rules.facts import Linear

SUMS, CROSS, WORK = 16, 16, 48
"""Bytes while all layers are summed and scored: an element of a Gram matrix, and of the cross moments of inputs and
outputs; more of a Gram matrix for the one layer that is worked on."""
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
    sizes = sorted((x.features.shape[1], x.outputs.shape[1]) for x in linears for _ in range(x.groups))
    widest = total = 0
    for width, same in groupby(sizes, lambda size: size[0]):
        total += sum(SUMS * width**2 + CROSS * width * outputs for _, outputs in same)
        if total + WORK * width**2 > memory:
            break
        widest = width
    return Allowance(widest, memory // SOLVED)
