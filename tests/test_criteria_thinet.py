import numpy as np
import pytest
from criteria_problems import Layer, make_layer, make_problem, make_reader
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.criteria import thinet
from onnxprune.criteria.channel_gram import channel_system, joint_system, scale_weights
from onnxprune.criteria.problem import Options


def _removed_energy(layers: list[Layer], width: int, removed: list[int]) -> float:
    """Σ over readers of ‖Σ_{i∈T} x̂_i‖² a row, normalised, from the rows."""
    return sum(
        (layer.unit_outputs(width)[removed].sum(axis=0) ** 2).sum() / len(layer.x) / layer.energy for layer in layers
    )


def _stacked(layers: list[Layer], width: int) -> tuple[np.ndarray, np.ndarray]:
    """One least-squares problem in the scales of the units: columns (rows, C) and target, normalised."""
    columns, targets = [], []
    for layer in layers:
        norm = np.sqrt(len(layer.x) * layer.energy)
        fixed = (layer.x * (layer.channel < 0)) @ layer.weight.T
        columns.append(layer.unit_outputs(width).reshape(width, -1).T / norm)
        targets.append((layer.y - fixed).ravel() / norm)
    return np.concatenate(columns), np.concatenate(targets)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_greedy_removal_equals_brute_force_on_the_rows(seed: int, width: int) -> None:
    problem, layers = make_problem(seed, width)
    selection = thinet.select(problem, Options())
    assert selection.cost is not None
    removed: list[int] = []
    for step, unit in enumerate(selection.order):
        energies = {u: _removed_energy(layers, width, [*removed, u]) for u in set(range(width)) - set(removed)}
        removed.append(int(unit))
        assert energies[int(unit)] == pytest.approx(min(energies.values()), rel=1e-7, abs=1e-12)
        assert selection.cost[step + 1] == pytest.approx(energies[int(unit)], rel=1e-7, abs=1e-12)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_forward_selection_is_matching_pursuit_on_the_rows(seed: int, width: int) -> None:
    problem, layers = make_problem(seed, width)
    selection = thinet.select(problem, Options(forward=True))
    columns, target = _stacked(layers, width)
    assert selection.cost is not None
    chosen: list[int] = []
    rest = target
    for unit in selection.order[::-1]:
        scores = (columns.T @ rest) ** 2 / (columns**2).sum(axis=0)
        best = max(scores[other] for other in range(width) if other not in chosen)
        assert scores[unit] == pytest.approx(best, rel=1e-6, abs=1e-10)
        chosen.append(int(unit))
        rest = target - columns[:, chosen] @ np.linalg.lstsq(columns[:, chosen], target, rcond=None)[0]
        assert selection.cost[width - len(chosen)] == pytest.approx(float(rest @ rest), rel=1e-6, abs=1e-10)


def test_the_channel_gram_is_the_overlap_of_the_units_outputs() -> None:
    problem, layers = make_problem(1, 5)
    columns, target = _stacked(layers, 5)
    system = joint_system(problem)
    np.testing.assert_allclose(system.gram, columns.T @ columns, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(system.target, columns.T @ target, rtol=1e-9, atol=1e-12)
    assert system.energy == pytest.approx(float(target @ target))


def test_more_features_than_a_slab_sum_to_the_same_gram() -> None:
    layer = make_layer(np.random.default_rng(2), 60, 9, 3, count=40)
    columns, _ = _stacked([layer], 60)
    moments = make_reader(layer).moments
    assert moments is not None
    gram = channel_system(layer.weight, moments, layer.channel, 60).gram / layer.energy
    np.testing.assert_allclose(gram, columns.T @ columns, rtol=1e-8, atol=1e-10)


def test_scales_are_the_least_squares_factors_of_the_kept_units() -> None:
    problem, layers = make_problem(3, 6)
    columns, target = _stacked(layers, 6)
    kept = np.array([0, 3, 4])
    expected = np.linalg.lstsq(columns[:, kept], target, rcond=None)[0]
    np.testing.assert_allclose(scale_weights(joint_system(problem), kept, ridge=0.0), expected, rtol=1e-8)


def test_a_dead_unit_keeps_its_scale() -> None:
    layer = make_layer(np.random.default_rng(4), 4, 1, 3)
    layer.x[:, layer.channel == 2] = 0.0
    moments = make_reader(layer).moments
    assert moments is not None
    scales = scale_weights(channel_system(layer.weight, moments, layer.channel, 4), np.arange(4))
    assert scales[2] == pytest.approx(1.0)
    assert np.isfinite(scales).all()
