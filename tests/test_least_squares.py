import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.calibration.least_squares import HeldRows, RidgeFactor, choose_ridge, held_out_error, refit, residual
from onnxprune.calibration.statistics import Moments, Tally


def _layer(seed: int, count: int, features: int, outputs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((count, features)) @ rng.standard_normal((features, features))).astype(np.float32)
    weight = rng.standard_normal((outputs, features))
    noise = rng.standard_normal((count, outputs))
    return x, (x @ weight.T + noise).astype(np.float32), weight


def _moments(x: np.ndarray, y: np.ndarray) -> Moments:
    tally = Tally(x.shape[1], y.shape[1])
    tally.add(x.astype(np.float32), y.astype(np.float32))
    return tally.moments()


def _exact(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    xc, yc = x - x.mean(axis=0), y - y.mean(axis=0)
    return xc.T @ xc / len(x), xc.T @ yc / len(x), float((yc**2).sum() / len(x))


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 5), st.sampled_from([1e-4, 1e-2, 1.0]))
def test_refit_equals_lstsq_on_rows_augmented_with_the_ridge(
    seed: int, features: int, outputs: int, rho: float
) -> None:
    x, y, prior = _layer(seed, 60, features, outputs)
    x, y = x.astype(np.float64), y.astype(np.float64)
    gram, cross, energy = _exact(x, y)
    kept = np.flatnonzero(np.random.default_rng(seed).random(features) < 0.6)
    weight = refit(gram, cross, prior, kept, rho)
    root = np.sqrt(rho * np.trace(gram) / features * len(x))
    xc, yc = (x - x.mean(axis=0))[:, kept], y - y.mean(axis=0)
    rows, aims = np.vstack([xc, root * np.eye(len(kept))]), np.vstack([yc, root * prior[:, kept].T])
    np.testing.assert_allclose(weight, np.linalg.lstsq(rows, aims, rcond=None)[0].T, rtol=1e-6, atol=1e-8)
    explicit = ((yc - xc @ weight.T) ** 2).sum() / len(x)
    assert residual(gram, cross, energy, weight, kept) == pytest.approx(explicit, rel=1e-8)


def test_refit_without_ridge_is_plain_least_squares() -> None:
    x, y, prior = _layer(3, 50, 4, 2)
    x, y = x.astype(np.float64), y.astype(np.float64)
    gram, cross, _ = _exact(x, y)
    kept = np.array([0, 2, 3])
    with_intercept = np.column_stack([x[:, kept], np.ones(len(x))])
    expected = np.linalg.lstsq(with_intercept, y, rcond=None)[0][:-1].T
    np.testing.assert_allclose(refit(gram, cross, prior, kept, 0.0), expected, rtol=1e-8)


def test_refit_survives_duplicate_and_dead_inputs() -> None:
    x, y, prior = _layer(4, 50, 4, 2)
    x, y = x.astype(np.float64), y.astype(np.float64)
    x[:, 1], x[:, 3] = x[:, 0], 0.0
    gram, cross, energy = _exact(x, y)
    weight = refit(gram, cross, prior, np.arange(4), 0.0)
    best = refit(gram, cross, prior, np.array([0, 2]), 0.0)
    assert np.isfinite(weight).all()
    assert residual(gram, cross, energy, weight, np.arange(4)) == pytest.approx(
        residual(gram, cross, energy, best, np.array([0, 2])), rel=1e-6
    )


def test_inputs_without_any_signal_keep_their_weights() -> None:
    prior = np.arange(6.0).reshape(2, 3)
    weight = refit(np.zeros((3, 3)), np.zeros((3, 2)), prior, np.array([0, 2]), 1e-2)
    np.testing.assert_array_equal(weight, prior[:, [0, 2]])


@pytest.mark.parametrize("scale", [0.0, -1e-9, -2.4, 1e-310])
def test_moments_that_are_rounding_alone_keep_the_weight(scale: float) -> None:
    gram, cross, prior = scale * np.diag([1.0, 1.0, 0.5]), np.full((3, 2), 1e-12), np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(RidgeFactor(gram, 1e-9).solve(cross, prior), prior)
    np.testing.assert_array_equal(refit(gram, cross, prior, np.arange(3), 0.0), prior)


def test_a_large_ridge_returns_the_prior() -> None:
    x, y, prior = _layer(5, 50, 4, 2)
    gram, cross, _ = _exact(x.astype(np.float64), y.astype(np.float64))
    np.testing.assert_allclose(refit(gram, cross, prior, np.arange(4), 1e12), prior, rtol=1e-6)


def test_held_out_error_is_that_of_the_solved_weight_and_intercept_on_new_rows() -> None:
    x, y, prior = _layer(7, 80, 5, 3)
    held_x, held_y = x[50:] + 1, y[50:]
    solve, held = _moments(x[:50], y[:50]), _moments(held_x, held_y)
    kept = np.array([1, 2, 4])
    weight = refit(solve.gram, solve.cross, prior, kept, 1e-2)
    intercept = solve.mean_y - weight @ solve.mean_x[kept]
    explicit = ((held_y - held_x[:, kept] @ weight.T - intercept) ** 2).sum(axis=1).mean()
    assert held_out_error(solve, held, weight, kept) == pytest.approx(explicit, rel=1e-4)


def test_the_ridge_with_the_least_held_out_error_is_chosen() -> None:
    x, y, prior = _layer(8, 2000, 20, 3)
    y = y + 30 * np.random.default_rng(9).standard_normal(y.shape).astype(np.float32)
    solve, candidates = _moments(x[:25], y[:25]), (1e-6, 1e-2, 10.0)
    held = HeldRows([(x[25:500], y[25:500]), (x[500:], y[500:])], np.full(20, 0.5))
    rho = choose_ridge(solve, held, prior, candidates)
    errors, judges = {}, np.concatenate([np.arange(25, 500, 3), np.arange(500, 2000, 3)])
    for candidate in candidates:
        weight = refit(solve.gram, solve.cross, prior, np.arange(20), candidate)
        left = y[judges] - solve.mean_y - (x[judges] - solve.mean_x) @ weight.T
        errors[candidate] = (left**2).sum(1).mean() / y[judges].var(0).sum()
        assert held.error(weight, solve.mean_y - weight @ solve.mean_x) == pytest.approx(errors[candidate], rel=1e-4)
    assert rho == min(errors, key=lambda c: errors[c])
    assert rho != 1e-6
