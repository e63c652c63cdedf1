from dataclasses import replace

import numpy as np
import pytest
from criteria_problems import make_problem
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import lars_path, lars_path_gram

from onnxprune.criteria import lasso
from onnxprune.criteria.channel_gram import joint_system
from onnxprune.criteria.lars import lars_path as our_path
from onnxprune.criteria.problem import Options, Problem


def _system(seed: int, width: int, symmetric: bool) -> tuple[np.ndarray, np.ndarray]:
    """Correlated columns, so that coefficients also leave the path; `symmetric`: the target is their sum."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3 * width + 2, width)) @ (np.eye(width) + rng.standard_normal((width, width)))
    y = x.sum(axis=1) if symmetric else rng.standard_normal(len(x))
    return x, y


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 15), st.booleans())
def test_the_path_equals_scikit_learns(seed: int, width: int, symmetric: bool) -> None:
    x, y = _system(seed, width, symmetric)
    penalties, _, coefficients = lars_path_gram(x.T @ y, x.T @ x, n_samples=1, method="lasso", max_iter=10_000)
    knots = list(our_path(x.T @ x, x.T @ y))
    scale = np.abs(coefficients).max()
    np.testing.assert_allclose([knot.penalty for knot in knots], penalties, rtol=1e-6, atol=1e-8 * penalties[0])
    ours = np.array([knot.coefficients for knot in knots]).T
    np.testing.assert_allclose(ours, coefficients, atol=1e-5 * scale)  # nearly tied units cost both some digits


def test_some_paths_of_the_test_lose_units_again() -> None:
    lengths = [len(list(our_path(x.T @ x, x.T @ y))) for x, y in (_system(seed, 12, False) for seed in range(10))]
    assert max(lengths) > 13


def test_every_knot_satisfies_the_optimality_conditions() -> None:
    x, y = _system(5, 40, False)
    gram, target = x.T @ x, x.T @ y
    for knot in our_path(gram, target):
        slope = target - gram @ knot.coefficients
        support = knot.coefficients != 0
        assert np.abs(slope).max() <= knot.penalty + 1e-8 * np.abs(target).max()
        np.testing.assert_allclose(
            slope[support], knot.penalty * np.sign(knot.coefficients[support]), atol=1e-8 * np.abs(target).max()
        )


def test_gain_is_what_least_squares_on_the_support_explains() -> None:
    x, y = _system(6, 10, True)
    for knot in our_path(x.T @ x, x.T @ y):
        support = np.flatnonzero(knot.coefficients)
        fit = x[:, support] @ np.linalg.lstsq(x[:, support], y, rcond=None)[0]
        assert knot.gain == pytest.approx(float(fit @ fit), rel=1e-8, abs=1e-10)


def test_exact_twins_and_dead_units_do_not_stop_the_path() -> None:
    x, y = _system(7, 8, True)
    x[:, 3], x[:, 5] = x[:, 2], 0.0
    knots = list(our_path(x.T @ x, x.T @ y))
    last = knots[-1]
    assert last.penalty == pytest.approx(0.0, abs=1e-8 * knots[0].penalty)
    assert last.coefficients[5] == 0
    assert np.count_nonzero(last.coefficients[[2, 3]]) == 1
    np.testing.assert_allclose(x @ last.coefficients, x @ np.linalg.lstsq(x, y, rcond=None)[0], atol=1e-7)


def test_a_zero_target_has_an_empty_path() -> None:
    knots = list(our_path(np.eye(3), np.zeros(3)))
    assert len(knots) == 1
    assert not knots[0].coefficients.any()


def _normalised(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """A and b as in the paper, for units scaled to ‖W_i‖ = 1 over all readers."""
    system = joint_system(problem)
    squares = np.zeros(problem.width)
    for reader in problem.readers:
        for unit in range(problem.width):
            squares[unit] += (reader.weight[:, reader.channel == unit] ** 2).sum() / reader.energy()
    norms = np.sqrt(squares)
    return system.gram / np.outer(norms, norms), system.target / norms


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 10))
def test_kept_sets_are_scikit_learns_last_support_of_at_most_that_size(seed: int, width: int) -> None:
    problem, _ = make_problem(seed, width)
    selection = lasso.select(problem, Options())
    gram, target = _normalised(problem)
    rows = np.linalg.cholesky(gram).T
    _, _, coefficients = lars_path(rows, np.linalg.solve(rows.T, target), method="lasso", max_iter=10_000)
    for k in range(width + 1):
        support = next(np.flatnonzero(c) for c in coefficients.T[::-1] if np.count_nonzero(c) <= k)
        assert set(support) <= set(selection.keep(k))
        assert len(selection.keep(k)) == k


def test_cost_is_the_error_of_the_best_scales_on_the_kept_units() -> None:
    problem, _ = make_problem(8, 9)
    selection, system = lasso.select(problem, Options()), joint_system(problem)
    assert selection.cost is not None
    for k in range(10):
        kept = selection.keep(k)
        explained = system.target[kept] @ np.linalg.lstsq(system.gram[np.ix_(kept, kept)], system.target[kept])[0]
        assert selection.cost[9 - k] == pytest.approx(system.energy - explained, rel=1e-6, abs=1e-9)


def test_balanced_rows_follow_the_order_of_entry() -> None:
    problem, _ = make_problem(9, 8, rows=2)
    selection = lasso.select(problem, Options())
    free = lasso.select(replace(problem, rows=None), Options()).order
    assert problem.rows is not None
    for row in (0, 1):
        mine = problem.rows == row
        np.testing.assert_array_equal(selection.order[mine[selection.order]], free[mine[free]])
    assert not selection.exact
