"""`l0`: gates learn which channels to close, and a price on what stays brings them to the budget."""

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from dense_mask import max_relative_difference, run
from graph_text import Weights, model_from_text
from model_counts import macs
from pipeline_case import QUICK, pictures, prune, tiny, widths

from onnxprune.allocate import Widths
from onnxprune.config import make_config
from onnxprune.errors import BadInput, BudgetNotMet
from onnxprune.greedy import by_threshold
from onnxprune.importance import SCORERS
from onnxprune.model_io import load
from onnxprune.passes.gates import add_gates, readings
from onnxprune.prepare import open_data, prepare

torch = pytest.importorskip("torch")

BODY = """a = Conv <pads=[1,1,1,1]> (x, a_w, a_b) ah = Relu (a) b = Conv <pads=[1,1,1,1]> (ah, b_w, b_b) bh = Relu (b)
    p = GlobalAveragePool (bh) f = Flatten (p) y = Gemm (f, y_w, y_b)"""
SHAPES: Weights = {"a_w": (12, 3, 3, 3), "a_b": (12,), "b_w": (12, 12, 3, 3), "b_b": (12,), "y_w": (12, 5), "y_b": (5,)}


def idle(gone_a: list[int], gone_b: list[int]) -> onnx.ModelProto:
    """A network that hardly reads some of its channels."""
    rng = np.random.default_rng(3)
    weights: Weights = {
        name: (rng.standard_normal(shape) * np.prod(shape[1:] or (9,)) ** -0.5).astype(np.float32)
        for name, shape in SHAPES.items()
    }
    weights["b_w"][:, gone_a] *= 1e-3
    weights["y_w"][gone_b] *= 1e-3
    return model_from_text("(float[N,3,16,16] x) => (float[N,5] y)", BODY, weights)


def test_gates_of_channels_that_do_nothing_close_and_the_budget_is_met() -> None:
    model = idle([1, 4, 5, 9], [0, 2, 7])
    result = prune(model, pictures(64), method="l0", macs=0.55, rebuild="none")
    removed = {g.name: sorted(set(range(12)) - set(g.kept)) for g in result.plan.groups}
    assert set(removed["Conv:a"]) >= {1, 4, 5, 9}
    assert set(removed["Conv:b"]) >= {0, 2, 7}
    assert 0.45 < macs(result.model) / macs(model) <= 0.55
    assert result.report.allocation.startswith("l0")


def test_the_report_tells_where_the_gates_ended() -> None:
    report = prune(idle([1, 4, 5, 9], [0, 2, 7]), pictures(64), method="l0", macs=0.55).report
    (told,) = [note for note in report.notes if note.startswith("L0 gates")]
    expected = float(told.split("steps ")[1].split("%")[0]) / 100
    assert abs(expected - 0.55) < 0.15
    assert "of 24 gates are shut" in told


def test_without_a_rebuild_half_open_gates_go_into_the_weights_behind_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.gradients.l0.STEPS", 40)  # too few for gates to settle
    model, x = idle([1, 4, 5, 9], [0, 2, 7]), pictures(64)
    result = prune(model, x, method="l0", ratio=0.25, rebuild="none")
    config = make_config(method="l0", ratio=0.25, rebuild="none", **QUICK)
    loaded = load(model).model
    data = open_data(loaded, x, config)
    prepared = prepare(loaded, data, config, True)
    learned, gates = SCORERS["l0"](prepared, data, config, lambda: None).factors, np.ones(prepared.analysis.units + 1)
    half = 0
    for group in prepared.groups:
        kept = next(planned.kept for planned in result.plan.groups if planned.name == group.name)
        values = np.where(learned[group.name] > 0, learned[group.name], 1)  # shut, but the budget has room for it
        stays = np.isin(np.arange(group.width), kept)
        half += int(np.sum(stays & (values < 1)))
        gates[group.units] = np.where(stays, values, 0)[group.member]
    assert half > 2
    gated = add_gates(prepared.analysis, readings(prepared.analysis, np.arange(prepared.analysis.units)))
    wanted = run(ir.to_proto(gated.model), {"x": x, gated.name: gates.astype(np.float32)[None]})
    assert max_relative_difference(run(result.model, {"x": x}), wanted) < 1e-5
    assert f"{half} half-open gates of channels that stay went into the weights behind them." in result.report.notes
    with_rebuild = prune(model, x, method="l0", ratio=0.25).report.notes
    assert not any("half-open" in note for note in with_rebuild)


def test_the_same_seed_closes_the_same_gates() -> None:
    one, same, other = (tiny(method="l0", macs=0.6, seed=seed).plan.groups for seed in (0, 0, 1))
    assert one == same
    assert {g.name for g in one} == {g.name for g in other}


def test_a_ratio_takes_the_worst_of_every_group() -> None:
    result = tiny(method="l0", ratio=0.25, rebuild="none")
    assert widths(result.model) == {"c0_w": 6, "c1_w": 6}


def test_the_widths_are_those_above_one_threshold_and_then_all_that_fits() -> None:
    rng = np.random.default_rng(7)
    for _ in range(50):
        scores = [rng.standard_normal(n) for n in (5, 8, 3)]
        candidates = [list(range(1, len(s) + 1)) for s in scores]
        price = rng.uniform(0.5, 2, 3)

        def cost(at: Widths, price: np.ndarray = price) -> np.ndarray:
            return np.asarray(at @ price)

        target = float(rng.uniform(price.sum(), sum(p * len(s) for p, s in zip(price, scores, strict=True))))
        found = by_threshold(scores, candidates, cost, target)
        every = [-np.inf, *itertools.chain(*scores)]
        allowed = [np.array([max(1, int(np.sum(s > t))) for s in scores]) for t in every]
        best = max((w for w in allowed if cost(w) <= target), key=lambda w: int(w.sum()))
        assert np.all(found >= best) or cost(best) < 0.98 * target
        assert cost(found) <= target
        more = [found + np.eye(3, dtype=np.int64)[g] for g, s in enumerate(scores) if found[g] < len(s)]
        assert all(cost(wider) > target for wider in more)


def test_width_moves_where_a_threshold_leaves_more_than_a_fiftieth_of_the_budget() -> None:
    """A threshold keeps 30 + 30 of 85; a unit of the second group for one of the first makes it 60 + 20."""
    scores, candidates = [np.array([3.0, 1.0]), np.array([2.0, 1.9, 1.8]), None], [[1, 2], [1, 2, 3], [1]]

    def cost(at: Widths) -> np.ndarray:
        return np.asarray(at @ [30.0, 10.0, 0.0])

    found = by_threshold(scores, candidates, cost, 85.0)
    np.testing.assert_array_equal(found, [2, 2, 1])


def test_a_group_alone_has_none_to_exchange_with() -> None:
    found = by_threshold([np.array([3.0, 2.0, 1.0])], [[1, 3]], lambda w: w.sum(-1), 2.5)
    np.testing.assert_array_equal(found, [1])


def test_groups_without_scores_keep_their_width_and_a_budget_out_of_reach_is_refused() -> None:
    found = by_threshold([None, np.array([1.0, 2.0])], [[1, 2, 3], [1, 2]], lambda w: w.sum(-1), 4.0)
    np.testing.assert_array_equal(found, [3, 1])
    with pytest.raises(BudgetNotMet):
        tiny(method="l0", macs=0.0001)


def test_without_torch_the_method_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(BadInput, match=r"pip install 'onnxprune\[torch\]'"):
        tiny(method="l0", macs=0.6)
