"""Ranks that layers may take, what they save and what they cost: the budget's other half beside widths."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx_ir as ir

from onnxprune.calibration.collect import LayerStatistics
from onnxprune.config import Config
from onnxprune.constants import constant_array
from onnxprune.costs import Float, product_cost
from onnxprune.dependency import Analysis, Keep
from onnxprune.graph import Array
from onnxprune.layers import Layer
from onnxprune.low_rank.factors import Responses
from onnxprune.native import F64
from onnxprune.op_rules.facts import Linear
from onnxprune.prepare import matches, names_of
from onnxprune.weights import from_matrix, from_vector, to_matrix, to_vector

FEWEST, MOST_RANKS = 8, 24
"""Ranks are multiples of this, or of the runtime's block in convolutions; at most so many are weighed."""


@dataclass(frozen=True, eq=False)
class Factorable:
    """A layer that may become a product: its weight (n, F), and what sweep 1 knows of its inputs (F, F) or (F,).

    `ranks` are those it may take, rising. From `least` on a product would not save: that rank stands for the layer as
    it is.
    """

    layer: Layer
    weight: F64
    inputs: F64
    mean: F64
    least: int
    ranks: tuple[int, ...]

    @cached_property
    def responses(self) -> Responses:
        """The best products for the layer's own responses."""
        varied = self.inputs @ self.weight.T if self.inputs.ndim > 1 else self.inputs[:, None] * self.weight.T
        return Responses(self.weight, self.weight @ varied)

    def errors(self, ranks: Sequence[int]) -> Float:
        """The share of the output's variance that each rank loses."""
        lost = np.append(np.cumsum(self.responses.energies[::-1])[::-1], 0.0)
        return np.asarray(np.maximum(lost[np.minimum(ranks, len(lost) - 1)] / max(lost[0], 1e-30), 1e-12))

    def feeds(self, rank: int, constants: Mapping[ir.Value, Array]) -> dict[str, Array]:
        """The layer's constants at a rank, by name."""
        product = self.responses.factors(rank).product() if rank < self.least else self.weight
        return self.with_weight(product, (self.weight - product) @ self.mean, constants)

    def with_weight(self, weight: F64, added: F64 | float, constants: Mapping[ir.Value, Array]) -> dict[str, Array]:
        """The layer's constants with another weight (n, F), and something added to its bias (n,), by name."""
        linear, bias = self.layer.linear, self.layer.bias
        assert bias is not None
        like, shift = constants[linear.weight], constants[bias]
        return {
            linear.weight.name or "": from_matrix(linear, weight[None], like.shape).astype(like.dtype),
            bias.name or "": from_vector(linear, to_vector(linear, shift) + added, shift).astype(shift.dtype),
        }

    def covering(self, energy: float) -> int:
        """The least rank that keeps this share of the output's variance."""
        ranks = np.arange(1, len(self.responses.energies) + 1)
        return int(ranks[np.argmax(self.errors(ranks.tolist()) <= max(1 - energy, 1e-12))])


def can_be_product(layer: Layer, config: Config) -> bool:
    """Whether `--fc` or `--conv` is about this layer, and its weight is a plain constant of its own."""
    wanted = config.conv if is_window(layer.linear) else config.fc_rank
    return bool(wanted) and layer.bias is not None and is_plain(layer.linear, config)


def is_plain(linear: Linear, config: Config) -> bool:
    """Whether options do not exclude the layer, and its weight is a plain constant of its own."""
    if linear.groups != 1 or linear.weight.const_value is None or len(linear.weight.uses()) != 1:
        return False
    if config.only and not matches(names_of(linear.node), config.only):
        return False
    return linear.node.domain in ("", "ai.onnx") and linear.node.op_type in ("Gemm", "MatMul", "Conv")


def is_window(linear: Linear) -> bool:
    """Whether the layer is a convolution that reads more than one position."""
    return linear.node.op_type == "Conv" and any(size > 1 for size in linear.kernel)


def factorable(
    analysis: Analysis,
    layers: Sequence[Layer],
    statistics: Mapping[str, LayerStatistics],
    config: Config,
    align: int,
) -> list[Factorable]:
    """The layers that may become products, with their ranks: all that would save, or the one that options set."""
    found = []
    for layer in (x for x in layers if can_be_product(x, config) and x.name in statistics):
        weight = to_matrix(layer.linear, constant_array(analysis.model, layer.linear.weight))[0].astype(np.float64)
        inputs, mean = input_moments(statistics[layer.name])
        one = Factorable(layer, weight, inputs, mean, -(-weight.size // sum(weight.shape)), ())
        ranks = _ranks(one, config, align if layer.linear.kind == "conv" else min(align, FEWEST))
        if ranks:
            found.append(replace(one, ranks=ranks))
    return found


def _ranks(one: Factorable, config: Config, align: int) -> tuple[int, ...]:
    if config.rank is not None or config.energy is not None:
        set_to = config.rank if config.rank is not None else one.covering(config.energy or 1.0)
        return (set_to,) if set_to < one.least else ()
    every = np.arange(align, one.least, align)
    if len(every) > MOST_RANKS:
        every = np.unique((np.geomspace(1, len(every), MOST_RANKS).round() * align).astype(int))
    return (*every.tolist(), one.least) if len(every) else ()


def input_moments(statistics: LayerStatistics, held: bool = False) -> tuple[F64, F64]:
    """The second moments of a layer's inputs, or their variances where it is too wide for more, and their means.

    On the rows to solve on, or on those `held` out; either stands in for the other where that saw none.
    """
    if not statistics.solve:
        return statistics.variance.variance()[0], (statistics.variance.total / statistics.variance.count)[0]
    tallies = [statistics.solve[0], statistics.held[0]]
    first, other = reversed(tallies) if held else tallies
    moments = (first if first.count else other).moments()
    return moments.gram.astype(np.float64), moments.mean_x


def saved_macs(analysis: Analysis, widths: Array, ranks: Mapping[str, int]) -> float:
    """The multiply–adds of one sample that products, by layer, save at these widths of all groups."""
    linears = [linear for linear in analysis.linears if (linear.node.name or "") in ranks]
    if not linears:
        return 0.0
    wanted = np.array([ranks[linear.node.name or ""] for linear in linears], np.float64)
    return float(product_cost(analysis, linears).saved(widths, wanted, "macs"))


def worth(ranks: Mapping[str, int], layers: Collection[Layer], keep: Keep) -> dict[str, int]:
    """Of these ranks, by layer, those that save something at the widths that stay."""
    found = {}
    for layer in layers:
        n, features = int(keep[layer.linear.outputs].sum()), int(keep[layer.linear.features].sum())
        rank = min(ranks.get(layer.name, n * features), n, features)
        if rank * (n + features) < n * features:
            found[layer.name] = rank
    return found
