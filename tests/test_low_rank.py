"""Products in the place of weights: each solver against dense algebra on explicit rows, or a search."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from onnxprune.low_rank.activations import NEAREST
from onnxprune.low_rank.approximate import METHODS, WEIGHTS
from onnxprune.low_rank.factors import Responses, by_singular_values, leading
from onnxprune.solve import Block, Fit

FUNCTIONS = {
    "Relu": lambda y: np.maximum(y, 0),
    "Sigmoid": lambda y: 1 / (1 + np.exp(-y)),
    "Tanh": np.tanh,
}


class Problem:
    """Rows of a layer whose inputs are correlated, and what it should give."""

    def __init__(self, rows: int = 400, features: int = 12, outputs: int = 9, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        mixing = rng.standard_normal((features, features)) * np.geomspace(3, 0.05, features)
        self.x = (rng.standard_normal((rows, features)) @ mixing + rng.standard_normal(features)).astype(np.float32)
        self.weight = rng.standard_normal((outputs, features))
        self.bias = rng.standard_normal(outputs)
        noise = 0.3 * rng.standard_normal((rows, outputs))
        self.y = (self.x @ self.weight.T + self.bias + noise).astype(np.float32)

    def fit(self) -> Fit:
        rows, features = self.x.shape
        block = Block(features, self.y.shape[1], rows, False, 1.0, keeps=True)
        block.add(self.x, self.y, None, 0)
        return block.fit(self.weight)

    def solved(self, method: str, rank: int, activation: str = "") -> tuple[np.ndarray, np.ndarray]:
        factors, bias = METHODS[method](self.fit(), self.weight, self.bias, rank, activation)
        assert factors.first.shape == (rank, self.x.shape[1])
        assert factors.second.shape == (self.y.shape[1], rank)
        return factors.product(), bias

    def error(self, weight: np.ndarray, bias: np.ndarray, activation: str = "") -> float:
        function = FUNCTIONS.get(activation, lambda y: y)
        missing = function(self.y.astype(np.float64)) - function(self.x @ weight.T + bias)
        return float(np.mean(missing**2))


def reduced_rank(x: np.ndarray, y: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Reduced-rank regression on explicit rows: least squares, then the SVD of what it gives."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    centred = x - x.mean(axis=0)
    full, *_ = np.linalg.lstsq(centred, y - y.mean(axis=0), rcond=None)
    _, _, right = np.linalg.svd(centred @ full, full_matrices=False)
    weight = (full @ right[:rank].T @ right[:rank]).T
    return weight, y.mean(axis=0) - weight @ x.mean(axis=0)


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_singular_values_give_the_nearest_product(rank: int) -> None:
    problem = Problem()
    product, bias = problem.solved("lrd", rank)
    sigma = np.linalg.svd(problem.weight, compute_uv=False)
    assert np.linalg.norm(problem.weight - product) == pytest.approx(np.sqrt(np.sum(sigma[rank:] ** 2)))
    assert np.array_equal(bias, problem.bias)


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_responses_give_what_dense_reduced_rank_regression_gives(rank: int) -> None:
    problem = Problem()
    product, bias = problem.solved("response", rank)
    ours, best = problem.error(product, bias), problem.error(*reduced_rank(problem.x, problem.y, rank))
    assert np.linalg.matrix_rank(product, tol=1e-8) == rank
    assert best <= ours <= 1.01 * best  # the ridge costs next to nothing in sample
    assert ours < 0.9 * problem.error(by_singular_values(problem.weight, rank).product(), problem.bias)


def test_the_energies_left_out_are_the_loss() -> None:
    problem = Problem()
    centred = problem.x.astype(np.float64) - problem.x.mean(axis=0)
    gram = centred.T @ centred / len(centred)
    responses = Responses(problem.weight, problem.weight @ gram @ problem.weight.T)
    for rank in (1, 4, 8):
        missing = centred @ (problem.weight - responses.factors(rank).product()).T
        assert np.sum(missing**2) / len(centred) == pytest.approx(responses.energies[rank:].sum(), rel=1e-5)


def test_full_rank_gives_the_whole_fit_again() -> None:
    problem = Problem()
    fit = problem.fit()
    for method in ("response", "as"):
        product, bias = problem.solved(method, 9)
        assert product == pytest.approx(fit.weight, abs=1e-9)
        assert bias == pytest.approx(fit.bias, abs=1e-9)


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid", "Tanh"])
def test_behind_an_activation_the_aware_fit_is_nearer(activation: str) -> None:
    problem = Problem(rows=3000)
    problem.x = (problem.x - problem.x.mean(axis=0)) / problem.x.std(axis=0)
    problem.bias = -np.ones(9)
    problem.y = (problem.x @ problem.weight.T + problem.bias).astype(np.float32)
    linear = problem.error(*problem.solved("response", 3), activation)
    aware = problem.error(*problem.solved("as", 3, activation), activation)
    assert aware < 0.95 * linear


def test_without_a_known_activation_the_aware_fit_is_the_linear_one() -> None:
    problem = Problem()
    for ours, linear in zip(problem.solved("as", 3, "Softplus"), problem.solved("response", 3), strict=True):
        assert np.array_equal(ours, linear)


@pytest.mark.parametrize("activation", sorted(NEAREST))
@settings(max_examples=30, deadline=None)
@given(z=st.floats(-6, 6), given_=st.floats(-6, 6), weight=st.sampled_from(WEIGHTS))
@example(z=0.0, given_=3.31640625, weight=0.1)  # f bends so that Newton's steps lead away from the minimum
def test_the_inner_step_is_as_good_as_a_grid_search(activation: str, z: float, given_: float, weight: float) -> None:
    function, grid = FUNCTIONS[activation], np.linspace(-7, 7, 140001)

    def cost(y: np.ndarray) -> np.ndarray:
        return np.asarray((function(np.float64(z)) - function(y)) ** 2 + weight * (y - given_) ** 2)

    found = NEAREST[activation](np.array([z]), np.array([given_]), weight)
    assert cost(found)[0] <= cost(grid).min() + 1e-5


@pytest.mark.parametrize("activation", sorted(NEAREST))
def test_no_turn_raises_the_objective(activation: str) -> None:
    problem, weight = Problem(rows=600), 0.1
    function, nearest = FUNCTIONS[activation], partial(NEAREST[activation], weight=weight)
    x, z = problem.x.astype(np.float64), problem.y.astype(np.float64)
    mixed, shift = reduced_rank(x, z, 3)
    costs = []
    for _ in range(6):
        y = nearest(z, x @ mixed.T + shift)
        mixed, shift = reduced_rank(x, y, 3)
        costs.append(np.mean((function(z) - function(y)) ** 2 + weight * (y - x @ mixed.T - shift) ** 2))
    assert all(after <= before * (1 + 1e-9) for before, after in pairwise(costs))
    assert costs[-1] < costs[0]


def test_few_vectors_of_a_large_matrix_are_those_of_the_whole_decomposition() -> None:
    rng = np.random.default_rng(0)
    factor = rng.standard_normal((300, 300)) * np.geomspace(1, 1e-3, 300)
    matrix = factor @ factor.T
    _, vectors = np.linalg.eigh(matrix)
    ours, whole = leading(matrix, 5), vectors[:, ::-1][:, :5]
    assert np.abs(np.sum(ours * whole, axis=0)) == pytest.approx(np.ones(5), abs=1e-6)
