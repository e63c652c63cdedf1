"""Widths for a budget: damage against uniform shares, what options pin, and what the probes are fed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
from cli_case import tiny_inputs, tiny_model
from graph_text import Weights, model_from_text
from sweep_case import Batches
from topologies import TOPOLOGIES, feeds

from onnxprune.calibration.collect import collect
from onnxprune.calibration.sampling import Sampling
from onnxprune.choose import Chosen, budget_of, choose
from onnxprune.config import Config
from onnxprune.costs import CostModel, cost_model
from onnxprune.criteria import lookup
from onnxprune.criteria.problem import Options
from onnxprune.dependency import Analysis
from onnxprune.errors import BudgetNotMet
from onnxprune.layers import Layer, layers_in_order
from onnxprune.model_io import load
from onnxprune.prepare import Data, open_data, prepare
from onnxprune.pricing import _curve, _priced, probe_feeds
from onnxprune.probe import open_prober
from onnxprune.scoring import Scored, score
from onnxprune.widths import allowed_widths


@dataclass(frozen=True, eq=False)
class Case:
    """A model up to the point where widths are chosen."""

    analysis: Analysis
    scored: list[Scored]
    costs: CostModel
    layers: list[Layer]
    data: Data

    def choose(self, align: int = 1, **options: Any) -> Chosen:
        config = Config(align=align, **options)
        return choose(self.analysis, self.scored, self.costs, self.layers, self.data, config, align)

    def widths(self, **options: Any) -> dict[str, int]:
        found = self.choose(**options)
        return {one.group.name: int(w) for one, w in zip(self.scored, found.widths, strict=True)}

    def full(self) -> dict[str, int]:
        return {one.group.name: one.group.width for one in self.scored}

    def damage(self, widths: Mapping[str, int], inputs: Mapping[str, np.ndarray]) -> float:
        """What all these cuts together do to the outputs, by the error of each group alone, added up."""
        prober = open_prober(self.analysis, self.layers, self.scored, inputs)
        return sum(prober.damage([[(one, widths[one.group.name])]])[0] for one in self.scored)

    def share(self, widths: Mapping[str, int], kind: str = "macs") -> float:
        place = {group.name: i for i, group in enumerate(self.analysis.groups)}
        every = self.costs.full.copy()
        for name, width in widths.items():
            every[place[name]] = width
        count = getattr(self.costs, kind)
        return float(count(every) / count(self.costs.full))


def case(model: onnx.ModelProto, inputs: Any, measured: Sequence[str] | None = None) -> Case:
    config, loaded = Config(samples=64), load(model).model
    data = open_data(loaded, inputs, config)
    prepared = prepare(loaded, data, config, True)
    layers, _ = layers_in_order(prepared.analysis)
    sampling = Sampling(data.source.samples, data.batches, len(layers), prepared.analysis.trace, 0)
    names = frozenset(layer.name for layer in layers if measured is None or layer.name in measured)
    collected = collect(prepared.analysis.model, layers, names, data.source, sampling)
    scored = score(prepared.analysis, collected, lookup("obs"), Options(), 0, prepared.groups)
    return Case(prepared.analysis, scored, cost_model(prepared.analysis), layers, data)


@pytest.fixture(scope="module")
def tiny() -> Case:
    return case(tiny_model(), tiny_inputs(48))


@pytest.fixture(scope="module")
def resnet() -> Case:
    model = TOPOLOGIES["resnet-text"]()
    return case(model, feeds(model, seed=3, batch=48))


@pytest.fixture(scope="module")
def lopsided() -> Case:
    """Two layers of one cost; the channels of the first are copies of two, so most of them can go for nothing."""
    rng = np.random.default_rng(0)
    a = np.repeat(rng.standard_normal((2, 3, 3, 3)), 6, axis=0).astype(np.float32) * rng.uniform(0.5, 2, (12, 1, 1, 1))
    body = """a = Conv <pads=[1,1,1,1]> (x, a_w) r = Relu (a) b = Conv <pads=[1,1,1,1]> (r, b_w) s = Relu (b)
    g = GlobalAveragePool (s) f = Flatten (g) y = Gemm <transB=1> (f, y_w)"""
    weights: Weights = {"a_w": a.astype(np.float32), "b_w": (12, 12, 3, 3), "y_w": (6, 12)}
    return case(model_from_text("(float[N,3,8,8] x) => (float[N,6] y)", body, weights), tiny_inputs(48))


# Budgets


@pytest.mark.parametrize(
    ("options", "synthetic", "expected"),
    [
        ({"ratio": 0.3}, False, ("ratio", 0.3)),
        ({"params": 0.4}, False, ("params", 0.4)),
        ({"speedup": 4.0}, True, ("macs", 0.25)),
        ({"macs": 0.6}, True, ("macs", 0.6)),
        ({"ratios": {"a": 0.5}}, False, ("ratios", 0.0)),
        ({"ratios": {"a": 0.5}, "macs": 0.7}, False, ("macs", 0.7)),
        ({}, False, ("macs", 0.5)),
        ({}, True, ("macs", 0.75)),
    ],
)
def test_the_budget_is_what_was_asked_for_or_the_default(
    options: dict[str, Any], synthetic: bool, expected: tuple[str, float]
) -> None:
    assert budget_of(Config(**options), synthetic) == expected


@pytest.mark.parametrize("allocate", ["uniform", "global"])
@pytest.mark.parametrize("budget", [{"macs": 0.6}, {"macs": 0.35}, {"params": 0.5}, {"speedup": 2.0}])
def test_the_budget_is_met_and_used(resnet: Case, allocate: str, budget: dict[str, float]) -> None:
    widths = resnet.widths(allocate=allocate, **budget)
    target = budget.get("macs", budget.get("params", 1 / budget.get("speedup", 1.0)))
    assert target - 0.08 < resnet.share(widths, "params" if "params" in budget else "macs") <= target
    assert all(1 <= width <= resnet.full()[name] for name, width in widths.items())


@pytest.mark.parametrize("target", [0.7, 0.5, 0.3])
@pytest.mark.parametrize("name", ["tiny", "lopsided", "resnet"])
def test_allocation_by_damage_is_no_worse_than_equal_shares(
    name: str, target: float, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxprune.pricing.SHARED_FACTOR", 1.0)
    made: Case = request.getfixturevalue(name)
    inputs = probe_feeds(made.data, 32)
    ours, uniform = (made.damage(made.widths(macs=target, allocate=kind), inputs) for kind in ("global", "uniform"))
    assert ours <= 1.02 * uniform + 1e-9


def test_streams_are_held_dearer_than_their_own_probes_say(resnet: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = [one.group.name for one in resnet.scored if len(one.group.readers) > 1]
    assert streams
    dear = resnet.widths(macs=0.5)
    monkeypatch.setattr("onnxprune.pricing.SHARED_FACTOR", 0.25)
    cheap = resnet.widths(macs=0.5)
    assert sum(dear[n] for n in streams) > sum(cheap[n] for n in streams)


def test_channels_go_where_they_cost_nothing(lopsided: Case) -> None:
    ours, uniform = (lopsided.widths(macs=0.5, allocate=kind) for kind in ("global", "uniform"))
    assert ours["Conv:a"] < uniform["Conv:a"]
    assert ours["Conv:b"] > uniform["Conv:b"]
    inputs = probe_feeds(lopsided.data, 32)
    assert lopsided.damage(ours, inputs) < 0.2 * lopsided.damage(uniform, inputs)


def test_a_ratio_is_the_same_share_of_every_group(resnet: Case) -> None:
    widths = resnet.widths(ratio=0.25)
    assert widths == {name: round(0.75 * width + 1e-9) for name, width in resnet.full().items()}
    assert resnet.choose(ratio=0.25).allocation == "the same share of every group"
    assert resnet.widths(ratio=0.0) == resnet.full()


def test_an_unreachable_budget_is_refused(tiny: Case) -> None:
    for allocate in ("uniform", "global"):
        with pytest.raises(BudgetNotMet, match="cannot be reached"):
            tiny.choose(macs=0.01, allocate=allocate)


# What options pin


@pytest.mark.parametrize("allocate", ["uniform", "global"])
def test_ratios_pin_their_groups_whatever_the_budget(tiny: Case, allocate: str) -> None:
    for rate, kept in ((0.5, 4), (0.0, 8), (0.75, 2)):
        widths = tiny.widths(ratios={"*h0": rate}, macs=0.5, allocate=allocate)
        assert widths["Conv:h0"] == kept
        assert tiny.share(widths) <= 0.5
    only = tiny.widths(ratios={"c1_w": 0.25})
    assert only == {"Conv:h0": 8, "Conv:h1": 6}
    assert tiny.widths(ratios={"c1_w": 0.25}, ratio=0.5) == {"Conv:h0": 4, "Conv:h1": 6}


def test_the_first_pattern_that_fits_counts(tiny: Case) -> None:
    assert tiny.widths(ratios={"Conv:h0": 0.5, "Conv:*": 0.25}) == {"Conv:h0": 4, "Conv:h1": 6}


@pytest.mark.parametrize("allocate", ["uniform", "global"])
def test_widths_are_whole_blocks(resnet: Case, allocate: str) -> None:
    full = resnet.full()
    for options in ({"macs": 0.6}, {"ratio": 0.4}):
        widths = resnet.widths(align=4, allocate=allocate, **options)
        assert all(width % 4 == 0 or width == full[name] for name, width in widths.items())
        assert widths != full
    assert resnet.share(resnet.widths(align=4, macs=0.6, allocate=allocate)) <= 0.6


def test_an_allocation_in_blocks_uses_the_budget_up(resnet: Case) -> None:
    """No group may have its next width back."""
    widths = resnet.widths(align=8, macs=0.6)
    assert resnet.share(widths) <= 0.6
    for one in resnet.scored:
        wider = [w for w in allowed_widths(one.group, 8) if w > widths[one.group.name]]
        assert not wider or resnet.share({**widths, one.group.name: wider[0]}) > 0.6


# Statistics and probes


def test_groups_whose_readers_were_not_measured_stay_whole() -> None:
    blind = case(tiny_model(), tiny_inputs(48), measured=["Gemm:y"])
    assert [bool(one.judges) for one in blind.scored] == [False, True]
    chosen = blind.choose(macs=0.7)
    assert chosen.widths[0] == 8
    assert chosen.widths[1] < 8
    assert chosen.allocation.startswith("global")


def test_where_measured_groups_are_not_enough_all_are_cut_alike() -> None:
    blind = case(tiny_model(), tiny_inputs(48), measured=["Gemm:y"])
    chosen = blind.choose(macs=0.1)
    assert chosen.allocation.startswith("uniform: the groups with statistics")
    assert chosen.widths.tolist() == blind.choose(macs=0.1, allocate="uniform").widths.tolist()


def data_of(axes: dict[str, int | None], fixed: bool, apart: list[Any], source: list[Any]) -> Data:
    return Data(Batches(source), Batches(apart), True, {}, axes, fixed, len(source), ())


def batch(start: int, stop: int) -> dict[str, np.ndarray]:
    x = np.arange(start, stop)
    return {"x": x, "state": np.stack([x, -x]), "k": np.array([7])}


def test_probes_are_fed_what_was_laid_aside_and_then_the_rest_in_one_batch() -> None:
    axes = {"x": 0, "state": 1, "k": None}
    data = data_of(axes, False, [batch(100, 103), batch(103, 105)], [batch(0, 4), batch(4, 8)])
    for inputs, expected in ((2, [100, 101]), (5, [100, 101, 102, 103, 104]), (7, [100, 101, 102, 103, 104, 0, 1])):
        found = probe_feeds(data, inputs)
        assert found["x"].tolist() == expected
        assert found["state"].tolist() == [expected, [-i for i in expected]]
        assert found["k"].tolist() == [7]
    assert len(probe_feeds(data, 1000)["x"]) == 13


def test_a_model_of_fixed_batch_size_is_fed_one_batch() -> None:
    data = data_of({"x": 0}, True, [batch(100, 104), batch(104, 108)], [batch(0, 4)])
    assert probe_feeds(data, 100)["x"].tolist() == [100, 101, 102, 103]


@pytest.mark.parametrize("size", [1, 8, 24, 48])
def test_a_fixed_batch_size_is_respected_throughout(size: int) -> None:
    model = tiny_model()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = size
    fixed = case(model, tiny_inputs(96))
    for source in (fixed.data.source, fixed.data.apart):
        sizes = [len(feeds["x"]) for feeds in source.batches()]
        assert sizes and set(sizes) == {size}
    widths = fixed.widths(macs=0.5)
    assert fixed.share(widths) <= 0.5


def test_less_left_never_counts_as_less_damage(tiny: Case) -> None:
    """Probes of few inputs may say so by accident; a budget would then be undershot for nothing."""
    one = max(tiny.scored, key=lambda scored: scored.group.width)
    widths = list(range(1, one.group.width + 1))
    damage = _priced(widths, [1, 2, 3], [0.2, 0.9, 0.4], partial(_curve, one))
    assert len(damage) == len(widths) and damage[-1] == 0
    assert damage == sorted(damage, reverse=True)
    assert damage[0] >= 0.9 and damage[2] == pytest.approx(0.4)


def test_below_the_least_width_that_was_probed_less_left_is_more_damage(
    tiny: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wide layer was cut to almost nothing once, since there each further channel seemed to be free."""
    monkeypatch.setattr("onnxprune.pricing.MOST_WIDTHS", 3)
    one = max(tiny.scored, key=lambda scored: scored.group.width)
    damage = np.array(_priced(list(range(1, 9)), [3, 4, 6], [0.8, 0.4, 0.1], partial(_curve, one))[:-1])
    np.testing.assert_allclose(damage[[2, 3, 5]], [0.8, 0.4, 0.1])
    np.testing.assert_allclose(damage[:2], 0.8 * 8 ** np.array([2 / 3, 1 / 3]))
