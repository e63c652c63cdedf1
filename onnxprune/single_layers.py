"""One layer made smaller at a time, the rest of the network untouched: what that costs the layer and the outputs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxprune.calibration.collect import LayerStatistics
from onnxprune.coding import BITS, coded, coded_bytes
from onnxprune.config import STORED, Config
from onnxprune.costs import Widths, product_cost
from onnxprune.cutting import look
from onnxprune.graph import Array, array_of
from onnxprune.low_rank.approximate import METHODS
from onnxprune.low_rank.factors import Form
from onnxprune.native import F64
from onnxprune.prepare import Data, Prepared
from onnxprune.pricing import probe_feeds
from onnxprune.probe import Prober, open_prober
from onnxprune.progress import Stages
from onnxprune.ranks import Factorable, input_moments, is_window
from onnxprune.rebuild import Ranks, fits
from onnxprune.report import Curve, Point
from onnxprune.scoring import Scored
from onnxprune.solve import Fit
from onnxprune.weights import to_matrix, to_vector

SEGMENTS = (8, 4, 2, 1)
Change = dict[str, Array]


@dataclass(frozen=True, eq=False)
class Single:
    """What one sweep knows of the layers and groups of a model, and the network to probe them with."""

    prepared: Prepared
    config: Config
    scored: Sequence[Scored]
    products: Sequence[Factorable]
    statistics: Mapping[str, LayerStatistics]
    fits: Mapping[str, Fit]
    prober: Prober
    samples: int

    @cached_property
    def _whole(self) -> tuple[float, float]:
        costs = self.prepared.costs
        return float(costs.macs(costs.full)), float(costs.params(costs.full))

    def of_channels(self, one: Scored, points: int) -> Curve:
        """A group at some widths: its readers refitted, their errors averaged."""
        costs, full = self.prepared.costs, one.group.width
        place = next(i for i, group in enumerate(self.prepared.analysis.groups) if group is one.group)
        widths = spread(range(one.group.row_count, full, one.group.row_count), points)
        every = np.repeat(costs.full[None], len(widths) + 1, axis=0)
        every[:, place] = [*widths, 0]
        params, (macs, whole) = costs.params(every), self._whole
        rates = (params[:-1] - params[-1]) / max(whole - float(params[-1]), 1e-30)
        errors = one.errors(widths) / max(len(one.problem.readers), 1)
        damage = self.prober.damage([[(one, width)] for width in widths])
        points_of = _points(widths, rates, costs.macs(every)[:-1] / macs, params[:-1] / whole, errors, damage)
        return Curve(name=one.group.name, kind="channels", method=self.config.method, whole=full, points=points_of)

    def of_layer(self, one: Factorable, points: int) -> Curve:
        """A layer as products of some ranks, or with its weights in codes."""
        window = is_window(one.layer.linear)
        if self.config.fc in STORED and not window:
            return self._of_codes(one)
        method = (self.config.conv if window else self.config.fc) or ""
        forms = {size: form for size, form in one.forms.items() if form is not None}
        sizes = spread(list(forms), points)
        ranks, rates = [forms[size].rank for size in sizes], [one.share(forms[size]) for size in sizes]
        (macs, params), saved = self._whole, [self._saved(one, forms[size]) for size in sizes]
        changes = [self._change(one, size, "response" if window else method) for size in sizes]
        shares = [[1 - m / macs for m, _ in saved], [1 - p / params for _, p in saved]]
        points_of = _points(ranks, rates, *shares, *self._costs(one, changes))
        return Curve(name=one.layer.name, kind="rank", method=method, whole=min(one.weight.shape), points=points_of)

    def _of_codes(self, one: Factorable) -> Curve:
        (n, features), like = one.weight.shape, array_of(one.layer.linear.weight)
        every = SEGMENTS if self.config.fc == "pq" else (BITS,)
        rated = [(segment, coded_bytes(n, features, segment, like.itemsize) / like.nbytes) for segment in every]
        segments, rates = [s for s, rate in rated if rate < 1], [rate for _, rate in rated if rate < 1]
        made = [coded(one.weight, self.config.fc or "", segment, self.config.seed) for segment in segments]
        changes = [one.with_weight(codes.rows(), 0.0, self.prober.constants) for codes in made]
        params = [1 - (1 - rate) * one.weight.size / self._whole[1] for rate in rates]
        points_of = _points(segments, rates, [1.0] * len(rates), params, *self._costs(one, changes))
        return Curve(name=one.layer.name, kind="codes", method=self.config.fc or "", whole=0, points=points_of)

    def _change(self, one: Factorable, size: int, method: str) -> Change:
        constants, layer, form = self.prober.constants, one.layer, one.forms[size]
        fit = self.fits.get(layer.name)
        if form is None or method == "response" or (method == "as" and fit is None):
            return one.feeds(size, constants)
        assert layer.bias is not None
        bias = to_vector(layer.linear, constants[layer.bias]).astype(np.float64)
        factors, vector = METHODS[method](fit, one.weight, bias, form.rank, layer.activation)
        return one.with_weight(factors.product(), vector - bias, constants)

    def _saved(self, one: Factorable, form: Form) -> tuple[float, float]:
        """The multiply–adds and parameters that a product saves."""
        cost = product_cost(self.prepared.analysis, [one.layer.linear])
        columns, rows = (np.array([count]) for count in one.kept(form))
        macs, params = (cost.saved(self.prepared.costs.full, (columns, rows), kind) for kind in ("macs", "params"))
        return float(macs), float(params)

    def _costs(self, one: Factorable, changes: Sequence[Change]) -> tuple[list[float], list[float]]:
        """The layer's own errors, and the outputs', of some changes of its constants."""
        constants = [value for value in (one.layer.linear.weight, one.layer.bias) if value is not None]
        inputs, mean = input_moments(self.statistics[one.layer.name], held=True)
        own = [self._own(one, change, inputs, mean) for change in changes]
        return own, self.prober.errors(constants, changes) if changes else []

    def _own(self, one: Factorable, change: Change, inputs: F64, mean: F64) -> float:
        """The mean squared difference of what the layer gives, over the variance of that; on held-out rows."""
        linear, bias = one.layer.linear, one.layer.bias
        assert bias is not None
        weight, vector = change[linear.weight.name or ""], change[bias.name or ""]
        lost = one.weight - to_matrix(linear, weight)[0].astype(np.float64)
        moved = to_vector(linear, self.prober.constants[bias]).astype(np.float64) - to_vector(linear, vector)
        constant = float(np.sum((lost @ mean + moved) ** 2))
        return (_varies(lost, inputs) + constant) / max(_varies(one.weight, inputs), 1e-30)


def open_single(prepared: Prepared, data: Data, config: Config, stages: Stages) -> Single:
    """Sweep the original once, for all curves; where a method goes over rows, a second time for these."""
    swept = config.model_copy(update={"rebuild": "lsq", **({"fc": "response"} if config.fc in STORED else {})})
    seen = look(prepared, data, swept, stages)
    assert seen.collected is not None
    found: dict[str, Fit] = {}
    dense = {one.layer.name: Form(0) for one in seen.products if not is_window(one.layer.linear)}
    ranks = Ranks(dense, config.fc or "")
    if config.fc == "as":
        layers = [one.layer for one in seen.products if one.layer.name in ranks.of]
        with stages.stage("rows"):
            own = fits(prepared.analysis, layers, seen.wave, seen.collected, data.source, seen.sampling, ranks)
            found = {layer.name: fit for layer, fit in own}
    scored = [one for one in seen.scored if one.judges]
    samples = data.apart.samples
    feeds = probe_feeds(data, samples)
    prober = open_prober(prepared.analysis, seen.layers, scored, feeds, [one.layer for one in seen.products])
    return Single(prepared, config, scored, seen.products, seen.collected.statistics, found, prober, samples)


def curves(single: Single, points: int, stages: Stages) -> Iterator[Curve]:
    """One curve a group, then one a layer."""
    with stages.stage("probe", len(single.scored) + len(single.products)) as tick:
        for scored in single.scored:
            yield single.of_channels(scored, points)
            tick()
        for product in single.products:
            yield single.of_layer(product, points)
            tick()


def spread(values: Sequence[int], points: int) -> list[int]:
    """At most so many of some rising numbers, by equal factors as far as they allow."""
    if len(values) <= points:
        return list(values)
    wanted = np.geomspace(values[0], values[-1], points)
    return [values[i] for i in np.unique(np.abs(np.subtract.outer(wanted, values)).argmin(axis=1))]


def _points(left: Sequence[int], *columns: Sequence[float] | F64 | Widths) -> tuple[Point, ...]:
    names = ("rate", "macs", "params", "own_error", "output_error")
    rows = zip(left, *columns, strict=True)
    return tuple(Point(left=first, **dict(zip(names, map(float, rest), strict=True))) for first, *rest in rows)


def _varies(weight: F64, inputs: F64) -> float:
    """How much outputs of a weight vary, summed over them."""
    varied = weight @ inputs if inputs.ndim > 1 else weight * inputs
    return float(np.sum(varied * weight))
