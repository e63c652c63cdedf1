"""Layers with more inputs than rows: the dual fit, and the spread of outputs that is nearest to the truth."""

import numpy as np
import pytest

from onnxprune.calibration.few_rows import few_rows
from onnxprune.calibration.least_squares import refit
from onnxprune.low_rank.factors import Responses, by_singular_values


def drawn(count: int, features: int = 40, outputs: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (count, F) that vary less and less, about means that are not zero, and a weight (n, F)."""
    mixing = np.random.default_rng(3).standard_normal((features, features)) * np.geomspace(1, 0.05, features)[:, None]
    x = np.random.default_rng(seed).standard_normal((count, features)) @ mixing + 2
    return x.astype(np.float32), np.random.default_rng(4).standard_normal((outputs, features))


@pytest.mark.parametrize("count", [7, 60])
def test_the_dual_fit_equals_the_primal_one(count: int) -> None:
    x, prior = drawn(count)
    y = np.random.default_rng(5).standard_normal((count, 6))
    xc, yc = x - x.mean(axis=0, dtype=np.float64), y - y.mean(axis=0)
    primal = refit(xc.T @ xc / count, xc.T @ yc / count, prior, np.arange(40), 1e-2)
    np.testing.assert_allclose(few_rows(x).refit(yc, prior, 1e-2), primal, rtol=1e-7, atol=1e-9)


def test_inputs_that_never_vary_leave_the_weight_as_it_is() -> None:
    prior = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(few_rows(np.ones((5, 3), np.float32)).refit(np.ones((5, 2)), prior, 1e-2), prior)


def test_the_spread_is_that_of_the_moments_that_ledoit_and_wolf_give() -> None:
    x, weight = drawn(15)
    xc = x - x.mean(axis=0, dtype=np.float64)
    gram, target = xc.T @ xc / 15, np.eye(40) * np.mean(xc**2)
    noise = np.mean([np.sum((np.outer(row, row) - gram) ** 2) for row in xc]) / 15
    share = noise / np.sum((gram - target) ** 2)
    assert 0.1 < share < 0.9
    moments = (1 - share) * gram + share * target
    np.testing.assert_allclose(few_rows(x).spread(weight) * (1 - share), weight @ moments @ weight.T, rtol=1e-6)


def test_rows_that_tell_nothing_leave_the_directions_of_the_weight() -> None:
    rng = np.random.default_rng(6)
    x, weight = rng.standard_normal((40, 3000)).astype(np.float32), drawn(1)[1]
    wide = np.pad(weight, ((0, 0), (0, 2960)))
    spread = few_rows(x).spread(wide)
    np.testing.assert_allclose(spread / np.trace(spread), weight @ weight.T / np.sum(weight**2), atol=0.005)


@pytest.mark.parametrize("count", [8, 10])
def test_products_lose_less_on_new_inputs_than_by_either_the_rows_or_the_weight_alone(count: int) -> None:
    fresh, weight = drawn(5000, seed=99)

    def lost(product: np.ndarray) -> float:
        return float(np.sum(np.var(fresh @ (weight - product).T, axis=0)))

    ours, rows = [], []
    for seed in range(20):
        x, _ = drawn(count, seed=seed)
        for found, spread in ((ours, few_rows(x).spread(weight)), (rows, np.cov((x @ weight.T).T))):
            found.append(lost(Responses(weight, spread).factors(3).product()))
    assert np.mean(ours) < 0.97 * np.mean(rows)
    assert np.mean(ours) < 0.97 * lost(by_singular_values(weight, 3).product())
