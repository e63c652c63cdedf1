"""The principal eigenvector of a weight Hessian, against scipy's of the dense matrix."""

from typing import Any

import numpy as np
import pytest
from model_counts import constants
from scipy.sparse.linalg import LinearOperator, eigsh
from test_gradients import MIDDLE, WIDTH, by_hand, labelled, residual, scores

from onnxprune.config import make_config
from onnxprune.criteria.hessian import principal
from onnxprune.model_io import load
from onnxprune.prepare import open_data

torch = pytest.importorskip("torch")


def _matrix(spectrum: list[float], seed: int = 0) -> np.ndarray:
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(spectrum),) * 2))[0]
    return np.asarray(basis * np.array(spectrum) @ basis.T)


@pytest.mark.parametrize("spectrum", [[9.0, 4.0, 1.0, 0.5, 0.1], [-9.0, 4.0, 1.0, -0.5, 0.1]])
def test_power_iteration_finds_the_eigenvector_of_the_largest_eigenvalue_of_either_sign(spectrum: list[float]) -> None:
    matrix = _matrix(spectrum)
    found = principal(lambda v: matrix @ v, np.random.default_rng(1).standard_normal(5), close=1e-8)
    value, vector = eigsh(matrix, k=1, which="LM")
    assert found.settled
    assert found.value == pytest.approx(value[0], rel=1e-6)
    assert abs(found.vector @ vector[:, 0]) == pytest.approx(1, abs=1e-6)
    assert found.ratio == pytest.approx(4 / 9, rel=0.05)


def test_two_largest_eigenvalues_that_nearly_tie_are_told() -> None:
    matrix = _matrix([5.0, 4.99, 1.0, 0.2])
    found = principal(lambda v: matrix @ v, np.random.default_rng(0).standard_normal(4))
    assert not found.settled
    assert found.ratio > 0.98


def test_a_loss_without_curvature_has_no_eigenvector() -> None:
    assert not principal(np.zeros_like, np.ones(3)).vector.any()


def _eigenvector(calib: Any, name: str) -> np.ndarray:
    """scipy's principal eigenvector of the mean cross-entropy's Hessian in one weight, in double precision."""
    weights = {key: array.astype(np.float64) for key, array in constants(residual()).items()}
    x, y = torch.from_numpy(calib["x"].astype(np.float64)), torch.from_numpy(calib["y"])
    ones = [torch.ones(n, dtype=torch.float64) for n in (WIDTH, MIDDLE)]

    def loss(weight: Any) -> Any:
        return torch.nn.functional.cross_entropy(by_hand(weights, x, *ones, {name: weight}), y)

    def product(vector: np.ndarray) -> np.ndarray:
        along = torch.from_numpy(vector.reshape(weights[name].shape))
        return np.asarray(torch.autograd.functional.hvp(loss, torch.from_numpy(weights[name]), along)[1]).reshape(-1)

    size = weights[name].size
    found = eigsh(LinearOperator((size, size), product, dtype=np.float64), k=1, which="LM", tol=1e-8)[1]
    return np.asarray(found).reshape(weights[name].shape)


@pytest.mark.parametrize(
    ("group", "layers"), [("Conv:b", ["b_w"]), ("Conv:a", ["a_w", "c_w"])], ids=["one layer", "all that write a stream"]
)
def test_scores_are_those_of_scipys_eigenvectors(group: str, layers: list[str]) -> None:
    calib = labelled(20)
    found = scores("hessian", residual(), calib, samples=18)
    data = open_data(load(residual()).model, calib, make_config(samples=18))
    x = np.concatenate([feeds["x"] for feeds in data.source.batches()])
    rows = [int(np.flatnonzero((calib["x"] == one).all((1, 2, 3)))[0]) for one in x]
    vectors = [_eigenvector({"x": x, "y": calib["y"][rows]}, name) for name in layers]
    wanted = sum(np.abs(vector).reshape(len(vector), -1).sum(1) for vector in vectors)
    np.testing.assert_allclose(found.by_group[group], wanted, rtol=0.02, atol=0.02 * np.max(wanted))
    assert any("Hessian–vector products" in note for note in found.notes)
