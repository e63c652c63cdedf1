from dataclasses import replace

import numpy as np
import pytest
from criteria_problems import Layer, make_problem
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.criteria import elimination, obs
from onnxprune.criteria.curve import error_curve
from onnxprune.criteria.problem import Options, Problem


def _refitted_error(layer: Layer, kept: list[int], ridge: float) -> float:
    """The ridged, normalised error of the best weights on `kept`, from the rows, by lstsq on all features."""
    scale = ridge * (layer.x**2).mean() * len(layer.x)
    features = np.isin(layer.channel, kept) | (layer.channel < 0)
    pull = np.sqrt(scale) * np.eye(layer.x.shape[1])
    rows, aims = np.vstack([layer.x, pull]), np.vstack([layer.y, pull @ layer.weight.T])
    fit = np.linalg.lstsq(rows[:, features], aims, rcond=None)[0]
    return float(((aims - rows[:, features] @ fit) ** 2).sum() / len(layer.x)) / layer.energy


def _total_error(layers: list[Layer], kept: list[int], ridge: float) -> float:
    return sum(_refitted_error(layer, kept, ridge) for layer in layers)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 7), st.sampled_from([1e-4, 1e-2, 1.0]), st.sampled_from([1, 3]))
def test_each_cost_is_the_error_of_an_explicit_refit(seed: int, width: int, ridge: float, chunk: int) -> None:
    problem, layers = make_problem(seed, width)
    selection = obs.select(problem, Options(ridge=ridge, chunk=chunk))
    assert selection.cost is not None
    for k in range(width + 1):
        expected = _total_error(layers, list(selection.order[k:]), ridge)
        assert selection.cost[k] == pytest.approx(expected, rel=1e-6, abs=1e-9)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(2, 7))
def test_every_removal_is_the_exhaustive_minimum(seed: int, width: int) -> None:
    problem, layers = make_problem(seed, width)
    left = list(range(width))
    for unit in obs.select(problem, Options()).order:
        errors = [_total_error(layers, [u for u in left if u != other], 1e-2) for other in left]
        mine = errors[left.index(int(unit))]
        assert mine == pytest.approx(min(errors), rel=1e-7)
        left.remove(int(unit))


def test_balanced_rows_take_the_cheapest_unit_whose_row_is_open() -> None:
    problem, layers = make_problem(3, 6, rows=2)
    order = obs.select(problem, Options()).order
    assert problem.rows is not None
    left = list(range(6))
    for place, unit in enumerate(order):
        allowed = [u for u in left if place % 2 == 0 or problem.rows[u] != problem.rows[order[place - 1]]]
        errors = {u: _total_error(layers, [v for v in left if v != u], 1e-2) for u in allowed}
        assert unit == min(errors, key=lambda u: errors[u])
        left.remove(int(unit))


def test_compacting_often_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, _ = make_problem(4, 40, ((2, 5, 3), (1, 60, 0)))
    once = obs.select(problem, Options())
    monkeypatch.setattr(elimination, "_PANEL", 3)
    often = obs.select(problem, Options())
    assert once.cost is not None
    assert often.cost is not None
    np.testing.assert_array_equal(once.order, often.order)
    np.testing.assert_allclose(once.cost, often.cost, rtol=1e-9, atol=1e-12)


def test_single_precision_agrees_with_double(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, _ = make_problem(5, 48, ((4, 12, 5), (1, 100, 0)))
    double = obs.select(problem, Options())
    monkeypatch.setattr(elimination, "_SINGLE_FROM", 0)
    single = obs.select(problem, Options())
    assert double.cost is not None
    assert single.cost is not None
    np.testing.assert_allclose(single.cost, double.cost, rtol=1e-4, atol=1e-5)  # of a variance of 1
    assert len(np.intersect1d(single.keep(24), double.keep(24))) >= 23


def test_units_with_unequal_numbers_of_features_are_exact_too() -> None:
    problem, layers = make_problem(6, 5, ((2, 3, 0),))
    layer = layers[0]
    uneven = replace(layer, channel=np.where(np.arange(10) == 0, -1, layer.channel))
    reader = replace(problem.readers[0], channel=uneven.channel)
    selection = obs.select(replace(problem, readers=(reader,)), Options())
    assert selection.cost is not None
    for k in range(6):
        expected = _total_error([uneven], list(selection.order[k:]), 1e-2)
        assert selection.cost[k] == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_flap_alone_removes_by_variance_times_weight() -> None:
    problem, layers = make_problem(7, 8, ((3, 4, 0),))
    layer = layers[0]
    scores = [(layer.x.var(axis=0) * (layer.weight**2).sum(axis=0))[layer.channel == unit].sum() for unit in range(8)]
    reader = replace(problem.readers[0], moments=None, variance=layer.x.var(axis=0))
    selection = obs.select(replace(problem, readers=(reader,)), Options())
    np.testing.assert_array_equal(selection.order, np.argsort(scores))
    assert selection.cost is not None
    np.testing.assert_allclose(selection.cost[1:], np.cumsum(np.sort(scores)) / np.sum(scores))


def test_the_error_curve_is_that_of_refits_judged_on_other_rows() -> None:
    problem, layers = make_problem(8, 6)
    other, others = make_problem(9, 6)
    held = [reader.moments for reader in other.readers]
    selection = obs.select(problem, Options())
    widths = [0, 2, 6]
    curve = error_curve(problem, held, selection, widths, rho=1e-2)
    for width, error in zip(widths, curve, strict=True):
        expected = 0.0
        for layer, judge in zip(layers, others, strict=True):
            features = np.isin(layer.channel, selection.keep(width)) | (layer.channel < 0)
            pull = np.sqrt(1e-2 * (layer.x**2).mean() * len(layer.x)) * np.eye(layer.x.shape[1])
            rows, aims = np.vstack([layer.x, pull]), np.vstack([layer.y, pull @ layer.weight.T])
            fit = np.linalg.lstsq(rows[:, features], aims, rcond=None)[0]
            expected += ((judge.y - judge.x[:, features] @ fit) ** 2).sum() / (judge.y**2).sum()
        assert error == pytest.approx(expected, rel=1e-6)


def test_a_reader_without_held_out_data_counts_with_its_removed_share() -> None:
    problem, layers = make_problem(10, 4, ((1, 3, 0),))
    selection = obs.select(problem, Options())
    layer = layers[0]
    scores = layer.x.var(axis=0) * (layer.weight**2).sum(axis=0)
    blind: Problem = replace(
        problem, readers=(replace(problem.readers[0], moments=None, variance=layer.x.var(axis=0)),)
    )
    gone = ~np.isin(layer.channel, selection.keep(1))
    assert error_curve(blind, [None], selection, [1])[0] == pytest.approx(scores[gone].sum() / scores.sum())
