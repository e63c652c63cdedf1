"""Factorisations in place are numpy's, in either precision, and say so where there is none."""

import numpy as np
import pytest

from onnxprune import lapack

TOLERANCE = {np.float32: 1e-4, np.float64: 1e-12}


def positive(size: int, dtype: type) -> np.ndarray:
    rows = np.random.default_rng(size).standard_normal((3 * size, size))
    return (rows.T @ rows / len(rows)).astype(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", [1, 2, 33, 200])
def test_factor_solution_and_inverse_are_numpys(size: int, dtype: type) -> None:
    matrix = positive(size, dtype)
    wide, targets = matrix.astype(np.float64), np.random.default_rng(0).standard_normal((5, size)).astype(dtype)
    factor, solved = matrix.copy(), targets.copy()
    assert lapack.factorise(factor)
    np.testing.assert_allclose(np.triu(factor).T, np.linalg.cholesky(wide), rtol=0, atol=TOLERANCE[dtype])
    lapack.solve(factor, solved)
    np.testing.assert_allclose(solved, np.linalg.solve(wide, targets.T).T, rtol=0, atol=20 * TOLERANCE[dtype])
    lapack.invert(factor)
    np.testing.assert_allclose(np.triu(factor), np.triu(np.linalg.inv(wide)), rtol=0, atol=20 * TOLERANCE[dtype])


def test_a_matrix_that_is_not_positive_has_no_factor() -> None:
    assert not lapack.factorise(np.array([[1.0, 2.0], [2.0, 1.0]]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_are_an_error(bad: float) -> None:
    with pytest.raises(ValueError, match="infinite or undefined"):
        lapack.factorise(np.array([[1.0, 0.0], [0.0, bad]]))
