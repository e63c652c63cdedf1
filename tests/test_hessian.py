"""The principal eigenvector of a weight Hessian, against scipy's of the dense matrix."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from model_counts import constants
from scipy.sparse.linalg import eigsh
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


def _mean_loss(calib: Any) -> Callable[..., Any]:
    """The mean cross-entropy of the residual network in double precision, as a function of some weights laid flat."""
    weights = {name: array.astype(np.float64) for name, array in constants(residual()).items()}
    x, y = torch.from_numpy(calib["x"].astype(np.float64)), torch.from_numpy(calib["y"])

    def loss(names: list[str], flat: Any) -> Any:
        parts = torch.split(flat, [weights[name].size for name in names])
        replaced = {name: part.reshape(weights[name].shape) for name, part in zip(names, parts, strict=True)}
        stream, middle = (torch.ones(n, dtype=torch.float64) for n in (WIDTH, MIDDLE))
        return torch.nn.functional.cross_entropy(by_hand(weights, x, stream, middle, replaced), y)

    return loss


@pytest.mark.parametrize(
    ("group", "layers"), [("Conv:b", ["b_w"]), ("Conv:a", ["a_w", "c_w"])], ids=["one layer", "all that write a stream"]
)
def test_scores_are_those_of_scipys_eigenvector_of_the_dense_hessian(group: str, layers: list[str]) -> None:
    calib = labelled(20)
    found = scores("hessian", residual(), calib, samples=18)
    data = open_data(load(residual()).model, calib, make_config(samples=18))
    x = np.concatenate([feeds["x"] for feeds in data.source.batches()])
    rows = [int(np.flatnonzero((calib["x"] == one).all((1, 2, 3)))[0]) for one in x]
    weights, loss = constants(residual()), _mean_loss({"x": x, "y": calib["y"][rows]})
    flat = torch.from_numpy(np.concatenate([weights[name].reshape(-1) for name in layers]).astype(np.float64))
    dense = torch.autograd.functional.hessian(lambda v: loss(layers, v), flat, vectorize=True).numpy()
    vector = eigsh(dense, k=1, which="LM")[1][:, 0]
    parts = np.split(vector, np.cumsum([weights[name].size for name in layers])[:-1])
    wanted = sum(np.abs(p).reshape(len(weights[n]), -1).sum(1) for n, p in zip(layers, parts, strict=True))
    np.testing.assert_allclose(found.by_group[group], wanted, rtol=0.02, atol=0.02 * np.max(wanted))
    assert any("Hessian–vector products" in note for note in found.notes)
