"""Infinite feature selection: the score of a column over paths of any length."""

import numpy as np
from scipy.stats import spearmanr

from onnxprune.criteria.inf_fs import inf_fs


def directly(rows: np.ndarray, alpha: float, factor: float) -> np.ndarray:
    """Version 4 of the authors' code, line by line, with the inverse written out."""
    correlation = np.nan_to_num(spearmanr(rows).statistic)
    deviation = rows.std(axis=0, ddof=1)
    sigma = np.array([[max(a, b) for b in deviation] for a in deviation])
    sigma = sigma - sigma.min()
    sigma = sigma / sigma.max()
    a = alpha * (1 - np.abs(correlation)) + (1 - alpha) * sigma
    r = factor / np.max(np.abs(np.linalg.eigvals(a)))
    identity = np.eye(len(a))
    return (np.linalg.inv(identity - r * a) - identity).sum(axis=1)


def correlated(count: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, width)) @ rng.standard_normal((width, width)) * rng.uniform(0.1, 3, width)


def test_scores_are_those_of_the_formula_written_out() -> None:
    rows = np.maximum(correlated(50, 7), 0)  # with ties, as behind a Relu
    np.testing.assert_allclose(inf_fs(rows), directly(rows, 0.5, 0.99), rtol=1e-9)
    np.testing.assert_allclose(inf_fs(rows, 0.2, 0.9), directly(rows, 0.2, 0.9), rtol=1e-9)


def test_many_columns_need_the_largest_eigenvalue_alone() -> None:
    rows = correlated(400, 300, seed=1)
    np.testing.assert_allclose(inf_fs(rows), directly(rows, 0.5, 0.99), rtol=1e-6)


def test_paths_of_any_length_are_summed() -> None:
    """The geometric series Σ (rA)^k·1, cut off after two thousand terms, is what the system of equations gives."""
    rows = correlated(60, 5, seed=2)
    scores = inf_fs(rows, factor=0.9)
    deviation = rows.std(axis=0, ddof=1)
    sigma = np.maximum.outer(deviation, deviation)
    a = 0.5 * (1 - np.abs(spearmanr(rows).statistic)) + 0.5 * (sigma - sigma.min()) / np.ptp(sigma)
    step, term, total = 0.9 / np.linalg.eigvalsh(a)[-1] * a, np.ones(5), np.zeros(5)
    for _ in range(2000):
        term = step @ term
        total += term
    np.testing.assert_allclose(scores, total, rtol=1e-9)


def test_a_column_that_varies_more_and_follows_no_other_counts_most() -> None:
    rng = np.random.default_rng(3)
    shared = rng.standard_normal((200, 1))
    rows = np.hstack([shared + 0.01 * rng.standard_normal((200, 4)), 3 * rng.standard_normal((200, 1))])
    assert np.argmax(inf_fs(rows)) == 4


def test_one_column_or_one_row_gives_equal_scores() -> None:
    np.testing.assert_array_equal(inf_fs(correlated(9, 1)), [1.0])
    assert np.ptp(inf_fs(correlated(1, 4))) < 1e-9
