"""The leading eigenvectors of a Hessian in gates, against scipy's of the dense matrix."""

from typing import Any

import numpy as np
import pytest
from model_counts import constants
from scipy.sparse.linalg import LinearOperator, eigsh
from test_gradients import MIDDLE, WIDTH, by_hand, labelled, residual, scores

from onnxprune.config import make_config
from onnxprune.criteria.hessian import COUNT, leading
from onnxprune.model_io import load
from onnxprune.prepare import open_data

torch = pytest.importorskip("torch")


def _matrix(spectrum: list[float], seed: int = 0) -> np.ndarray:
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(spectrum),) * 2))[0]
    return np.asarray(basis * np.array(spectrum) @ basis.T)


def _start(size: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(size)


@pytest.mark.parametrize("ends", [[9.0, 7.0, 4.0], [-9.0, 7.0, -4.0]])
def test_the_eigenvectors_of_the_largest_eigenvalues_of_either_sign_are_found(ends: list[float]) -> None:
    matrix = _matrix([*ends, *np.linspace(-1, 1, 40)])
    found = leading(lambda v: matrix @ v, _start(43), count=3, close=1e-6)
    values, vectors = eigsh(matrix, k=3, which="LM")
    order = np.argsort(-np.abs(values))
    np.testing.assert_allclose(found.values, values[order], rtol=1e-6)
    np.testing.assert_allclose(np.abs(np.sum(found.vectors * vectors[:, order], 0)), 1, atol=1e-6)
    assert found.products < 43
    np.testing.assert_allclose(found.damage(), vectors**2 @ np.abs(values), atol=1e-5)


def test_eigenvalues_that_nearly_tie_are_told_apart_or_said_not_to_have_settled() -> None:
    matrix = _matrix([5.0, 4.99, *np.linspace(0.1, 4, 60)])
    few = leading(lambda v: matrix @ v, _start(62), count=1, most=3)
    assert not few.settled
    many = leading(lambda v: matrix @ v, _start(62), count=2, most=62, close=1e-6)
    np.testing.assert_allclose(many.values, [5.0, 4.99], rtol=1e-6)


def test_all_eigenvectors_give_what_removing_one_coordinate_costs() -> None:
    matrix = _matrix([4.0, 2.0, 1.0, 0.5])
    found = leading(lambda v: matrix @ v, _start(4), count=4, close=0.0)
    np.testing.assert_allclose(found.damage(), np.diag(matrix), rtol=1e-9)


def test_a_hessian_of_low_rank_ends_the_iteration() -> None:
    matrix = _matrix([3.0, 1.0, *[0.0] * 30])
    found = leading(lambda v: matrix @ v, _start(32))
    assert found.products < 6
    np.testing.assert_allclose(found.values[:2], [3.0, 1.0], rtol=1e-6)


def test_a_loss_without_curvature_has_no_eigenvector() -> None:
    assert not leading(np.zeros_like, np.ones(3)).damage().any()


def _damage(calib: Any, stream: bool) -> np.ndarray:
    """Σ |λ| v² of scipy's eigenvectors of the mean cross-entropy's Hessian in the gates, in double precision."""
    weights = {key: array.astype(np.float64) for key, array in constants(residual()).items()}
    x, y = torch.from_numpy(calib["x"].astype(np.float64)), torch.from_numpy(calib["y"])
    size = WIDTH if stream else MIDDLE
    ones = torch.ones(MIDDLE if stream else WIDTH, dtype=torch.float64)

    def loss(gates: Any) -> Any:
        return torch.nn.functional.cross_entropy(by_hand(weights, x, *((gates, ones) if stream else (ones, gates))), y)

    def product(vector: np.ndarray) -> np.ndarray:
        at = torch.ones(size, dtype=torch.float64)
        return np.asarray(torch.autograd.functional.hvp(loss, at, torch.from_numpy(vector.reshape(-1)))[1])

    values, vectors = eigsh(LinearOperator((size, size), product, dtype=np.float64), k=COUNT, which="LM", tol=1e-8)
    return np.asarray(vectors**2 @ np.abs(values))


@pytest.mark.parametrize("stream", [True, False], ids=["a stream, wherever it is read", "inside a block"])
def test_scores_are_those_of_scipys_eigenvectors(stream: bool) -> None:
    calib = labelled(20)
    found = scores("hessian", residual(), calib, samples=18)
    data = open_data(load(residual()).model, calib, make_config(samples=18))
    x = np.concatenate([feeds["x"] for feeds in data.source.batches()])
    rows = [int(np.flatnonzero((calib["x"] == one).all((1, 2, 3)))[0]) for one in x]
    wanted = _damage({"x": x, "y": calib["y"][rows]}, stream)
    name = "Conv:a" if stream else "Conv:b"
    np.testing.assert_allclose(found.by_group[name], wanted, rtol=0.02, atol=1e-3 * np.max(wanted))
    assert any("Hessian–vector products a group" in note for note in found.notes)
