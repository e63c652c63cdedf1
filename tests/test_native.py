"""Products and factorisations in place are numpy's; where there is no factor they say so."""

import numpy as np
import pytest

from onnxprune import native


def positive(size: int) -> np.ndarray:
    rows = np.random.default_rng(size).standard_normal((3 * size, size))
    return rows.T @ rows / max(len(rows), 1)


@pytest.mark.parametrize("size", [0, 1, 2, 33, 300])
def test_factor_solution_and_inverse_are_numpys(size: int) -> None:
    matrix, targets = positive(size), np.random.default_rng(0).standard_normal((5, size))
    factor, solved = matrix.copy(), targets.copy()
    assert native.factorise(factor)
    np.testing.assert_allclose(np.triu(factor).T, np.linalg.cholesky(matrix), rtol=0, atol=1e-12)
    native.solve(factor, solved)
    np.testing.assert_allclose(solved, np.linalg.solve(matrix, targets.T).T, rtol=0, atol=1e-10)
    native.invert(factor)
    np.testing.assert_allclose(factor, np.linalg.inv(matrix), rtol=0, atol=1e-10)


def test_a_matrix_that_is_not_positive_has_no_factor() -> None:
    assert not native.factorise(np.array([[1.0, 2.0], [2.0, 1.0]]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_are_an_error(bad: float) -> None:
    with pytest.raises(ValueError, match="infinite or undefined"):
        native.factorise(np.array([[1.0, 0.0], [0.0, bad]]))


@pytest.mark.parametrize(("count", "features", "outputs"), [(1, 1, 1), (7, 5, 2), (300, 64, 30), (5, 3, 0), (0, 3, 2)])
def test_products_are_added_to_parts_of_wider_arrays(count: int, features: int, outputs: int) -> None:
    rng = np.random.default_rng(count)
    rows, targets = (rng.standard_normal((count, 2 * n)).astype(np.float32)[:, :n] for n in (features, outputs))
    total, square = np.ones((features, 2 * outputs), np.float32), np.ones((features, 2 * features), np.float32)
    native.add_product(total[:, :outputs], rows, targets)
    native.add_square(square[:, :features], rows)
    np.testing.assert_allclose(total[:, :outputs], 1 + rows.T @ targets, atol=1e-4)
    np.testing.assert_allclose(np.triu(square[:, :features]), np.triu(1 + rows.T @ rows), atol=1e-4)
    below = np.tril_indices(features, -1)
    assert (total[:, outputs:] == 1).all() and (square[:, features:] == 1).all() and (square[below] == 1).all()
