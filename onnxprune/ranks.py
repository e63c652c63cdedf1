"""Products that layers may become, what they save and what they cost: the budget's other half beside widths."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import onnx_ir as ir

from onnxprune.calibration.collect import LayerStatistics
from onnxprune.config import Config
from onnxprune.constants import constant_array
from onnxprune.costs import Float, Kept, product_cost
from onnxprune.dependency import Analysis, Keep
from onnxprune.graph import Array
from onnxprune.layers import Layer
from onnxprune.low_rank.factors import Factors, Form, Kind, Responses
from onnxprune.low_rank.spatial import Sides
from onnxprune.native import F64
from onnxprune.op_rules.facts import Linear
from onnxprune.plan import ProductPlan
from onnxprune.prepare import matches, names_of
from onnxprune.weights import from_matrix, from_vector, to_matrix, to_vector

FEWEST, MOST_RANKS = 8, 24
"""Ranks are multiples of this, or of the runtime's block in convolutions; at most so many of a kind are weighed."""
WHOLE = 1000
"""The size of a layer as it is; that of a product is its share of the layer's cost, in thousandths."""


@dataclass(frozen=True, eq=False)
class Factorable:
    """A layer that may become a product: its weight (n, F), and what sweep 1 knows of its inputs (F, F) or (F,).

    `forms` are those it may take by their sizes, rising; the last, None, is the layer as it is. The first of two
    nodes computes `stretch` positions for one of the layer's where it goes along one side only.
    """

    layer: Layer
    weight: F64
    inputs: F64
    mean: F64
    stretch: float = 1.0
    forms: Mapping[int, Form | None] = field(default_factory=dict)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rising; the last one stands for the layer as it is."""
        return tuple(self.forms)

    @cached_property
    def responses(self) -> Responses:
        """The best products for the layer's own responses."""
        varied = self.inputs @ self.weight.T if self.inputs.ndim > 1 else self.inputs[:, None] * self.weight.T
        return Responses(self.weight, self.weight @ varied)

    @cached_property
    def sides(self) -> Sides:
        """The same along the sides of a window."""
        return Sides(self.weight, self.inputs, self.layer.linear.kernel)

    def errors(self, sizes: Sequence[int]) -> Float:
        """The share of the output's variance that the product of each size loses."""
        return self.lost([self.forms[size] for size in sizes])

    def lost(self, forms: Sequence[Form | None]) -> Float:
        """The share of the output's variance that each of these loses."""
        found = np.zeros(len(forms))
        for kind, curve in (("channel", self._channel_errors), ("spatial-svd", self._side_errors)):
            own = [(i, form.rank) for i, form in enumerate(forms) if form is not None and form.kind == kind]
            if own:
                found[[i for i, _ in own]] = curve([rank for _, rank in own])
        return np.asarray(np.maximum(found, 1e-12))

    def factors(self, form: Form) -> Factors:
        """The product, without turns of the alternation: how errors were told."""
        return self.responses.factors(form.rank) if form.kind == "channel" else self.sides.factors(form.rank, turns=0)

    def feeds(self, size: int, constants: Mapping[ir.Value, Array]) -> dict[str, Array]:
        """The layer's constants at a size, by name."""
        form = self.forms[size]
        product = self.weight if form is None else self.factors(form).product()
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

    def kept(self, form: Form | None) -> tuple[float, float]:
        """What counts of a form for each column and row of the weight: multiply–adds, or parameters if more."""
        if form is None:
            return np.inf, np.inf
        return form.kept(self.layer.linear.kernel, max(1.0, self.stretch))

    def share(self, form: Form) -> float:
        """The share of the layer that a form needs."""
        columns, rows = self.kept(form)
        return columns / len(self.weight) + rows / len(self.mean)

    def between(self, form: Form | None) -> float:
        """Numbers that the first factor of a form hands to the second, of all samples of the trace."""
        if form is None:
            return 0.0
        return form.rank * self.layer.linear.macs * (self.stretch if form.kind == "spatial-svd" else 1.0)

    def over_sizes(self, count: Callable[[Form | None], float]) -> Float:
        """(WHOLE + 1,) a count of forms at every size; infinite where there is none."""
        found = np.full(WHOLE + 1, np.inf)
        found[list(self.forms)] = [count(form) for form in self.forms.values()]
        return found

    def table(self) -> tuple[Float, Float]:
        """(WHOLE + 1,) what counts for each column, and for each row, at every size."""
        return self.over_sizes(lambda form: self.kept(form)[0]), self.over_sizes(lambda form: self.kept(form)[1])

    def _channel_errors(self, ranks: Sequence[int]) -> Float:
        lost = np.append(np.cumsum(self.responses.energies[::-1])[::-1], 0.0)
        return np.asarray(lost[np.minimum(ranks, len(lost) - 1)] / max(lost[0], 1e-30))

    def _side_errors(self, ranks: Sequence[int]) -> Float:
        return np.asarray(self.sides.errors(ranks) / max(self.sides.energy, 1e-30))


def can_be_product(layer: Layer, config: Config) -> bool:
    """Whether `--fc` or `--conv` is about this layer, and its weight is a plain constant of its own."""
    return layer.bias is not None and is_plain(layer.linear, config) and bool(_kinds(layer.linear, config))


def is_plain(linear: Linear, config: Config) -> bool:
    """Whether options do not exclude the layer, and its weight is a plain constant of its own."""
    if linear.groups != 1 or linear.weight.const_value is None or len(linear.weight.uses()) != 1:
        return False
    if config.only and not matches(names_of(linear.node), config.only):
        return False
    return linear.node.domain in ("", "ai.onnx") and linear.node.op_type in ("Gemm", "MatMul", "Conv")


def is_window(linear: Linear) -> bool:
    """Whether this is a convolution of more than one position: those are a matter of `--conv`."""
    return linear.node.op_type == "Conv" and any(size > 1 for size in linear.kernel)


def _kinds(linear: Linear, config: Config) -> tuple[Kind, ...]:
    if not is_window(linear):
        return ("channel",) if config.fc_rank else ()
    two = len(linear.kernel) == 2 and min(linear.kernel) > 1
    kinds: tuple[Kind, ...] = ("channel", "spatial-svd") if two else ("channel",)
    return tuple(kind for kind in kinds if config.conv in (kind, "auto"))


def factorable(
    analysis: Analysis,
    layers: Sequence[Layer],
    statistics: Mapping[str, LayerStatistics],
    config: Config,
    align: int,
) -> list[Factorable]:
    """The layers that may become products, with their forms: all that would save, or the one that options set."""
    found = []
    for layer in (x for x in layers if can_be_product(x, config) and x.name in statistics):
        weight = to_matrix(layer.linear, constant_array(analysis.model, layer.linear.weight))[0].astype(np.float64)
        one = Factorable(layer, weight, *input_moments(statistics[layer.name]), _stretch(analysis, layer.linear))
        forms = _forms(one, config, align if layer.linear.kind == "conv" else min(align, FEWEST))
        if forms:
            found.append(replace(one, forms=forms))
    return found


def _forms(one: Factorable, config: Config, align: int) -> dict[int, Form | None]:
    kinds = _kinds(one.layer.linear, config)
    if one.inputs.ndim == 1:  # only variances are known, which say nothing of what the taps of a window share
        kinds = tuple(kind for kind in kinds if kind == "channel")
    if config.rank is not None or config.energy is not None:
        return _as_set(one, kinds, config)
    every = [Form(rank, kind) for kind in kinds for rank in _ranks(one, kind, align)]
    errors = dict(zip(every, one.lost(every), strict=True))
    found: dict[int, Form | None] = {}
    least = np.inf
    for form in sorted(every, key=lambda form: (one.share(form), errors[form])):
        size = round(WHOLE * one.share(form))
        if errors[form] < least and 0 < size < WHOLE:  # else something smaller is as good
            found.setdefault(size, form)
            least = errors[form]
    return {**found, WHOLE: None} if found else {}


def _as_set(one: Factorable, kinds: Sequence[Kind], config: Config) -> dict[int, Form | None]:
    """The kind that loses least at the rank that was asked for; or the one that covers the energy with least."""
    if config.rank is not None:
        forms = [Form(config.rank, kind) for kind in kinds]
        forms = [form for form in forms if one.share(form) < 1]
        best = min(forms, key=lambda form: float(one.lost([form])[0]), default=None)
    else:
        forms = [form for kind in kinds if (form := _covering(one, kind, config.energy or 1.0)) is not None]
        best = min(forms, key=one.share, default=None)
    return {} if best is None else {round(WHOLE * one.share(best)): best}


def _covering(one: Factorable, kind: Kind, energy: float) -> Form | None:
    """The least rank that keeps this share of the output's variance, where that saves."""
    forms = [Form(rank, kind) for rank in range(1, _least(one, kind))]
    enough = one.lost(forms) <= max(1 - energy, 1e-12) if forms else np.zeros(0, np.bool_)
    return forms[int(np.argmax(enough))] if np.any(enough) else None


def _least(one: Factorable, kind: Kind) -> int:
    """The least rank that does not save."""
    return int(np.ceil(1 / one.share(Form(1, kind)) - 1e-9))


def _ranks(one: Factorable, kind: Kind, align: int) -> list[int]:
    every = np.arange(align, _least(one, kind), align)
    if len(every) > MOST_RANKS:
        every = np.unique((np.geomspace(1, len(every), MOST_RANKS).round() * align).astype(int))
    ranks: list[int] = every.tolist()
    return ranks


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


def _stretch(analysis: Analysis, linear: Linear) -> float:
    """Positions that a convolution along the window's first side alone makes, over those that the layer makes."""
    if len(linear.kernel) != 2:
        return 1.0
    return analysis.trace.shape(linear.x)[3] / max(analysis.trace.shape(linear.y)[3], 1)


def planned(products: Sequence[ProductPlan]) -> dict[str, Form]:
    """The forms of layers that a plan has."""
    return {one.name: Form(one.rank, one.kind) for one in products}


def saved_macs(analysis: Analysis, widths: Array, forms: Mapping[str, Form]) -> float:
    """The multiply–adds of one sample that products, by layer, save at these widths of all groups."""
    linears = [linear for linear in analysis.linears if (linear.node.name or "") in forms]
    if not linears:
        return 0.0
    kept = [forms[x.node.name or ""].kept(x.kernel, _stretch(analysis, x)) for x in linears]
    return float(product_cost(analysis, linears).saved(widths, columns_and_rows(kept), "macs"))


def columns_and_rows(kept: Sequence[tuple[float, float]]) -> Kept:
    """(L,) and (L,) of L pairs."""
    both = np.array(kept, np.float64)
    return both[:, 0], both[:, 1]


def worth(analysis: Analysis, forms: Mapping[str, Form], layers: Collection[Layer], keep: Keep) -> dict[str, Form]:
    """Of these forms, by layer, those that save something at the widths that stay."""
    found = {}
    for layer in (layer for layer in layers if layer.name in forms):
        linear = layer.linear
        n, features = int(keep[linear.outputs].sum()), int(keep[linear.features].sum())
        form = forms[layer.name].within(n, features, linear.kernel)
        columns, rows = form.kept(linear.kernel, max(1.0, _stretch(analysis, linear)))
        if columns * features + rows * n < n * features:
            found[layer.name] = form
    return found
