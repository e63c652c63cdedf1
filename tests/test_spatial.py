"""Convolutions along either side of their window: the solver against dense algebra, searches and the plain SVD."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import minimize

from onnxprune.calibration.least_squares import RidgeFactor
from onnxprune.low_rank.factors import Form
from onnxprune.low_rank.spatial import Sides, descended, sides_by_singular_values


class Conv:
    """A weight, and rows of windows of smooth, correlated maps."""

    def __init__(self, outputs: int = 5, channels: int = 3, kernel: tuple[int, int] = (3, 2), seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        maps = rng.standard_normal((40, channels, 9, 9)).cumsum(-1).cumsum(-2)
        maps = np.einsum("bchw,cd->bdhw", maps, rng.standard_normal((channels, channels)) + np.eye(channels))
        windows = np.lib.stride_tricks.sliding_window_view(maps, kernel, (2, 3)).transpose(0, 2, 3, 1, 4, 5)
        rows = windows.reshape(-1, channels * kernel[0] * kernel[1])
        self.rows = rows - rows.mean(0)
        self.gram = self.rows.T @ self.rows / len(rows)
        self.kernel = kernel
        self.weight = rng.standard_normal((outputs, rows.shape[1]))

    @property
    def sides(self) -> Sides:
        return Sides(self.weight, self.gram, self.kernel)

    def error(self, product: np.ndarray) -> float:
        """By explicit rows."""
        return float(np.mean(np.sum((self.rows @ (self.weight - product).T) ** 2, axis=1)))

    def products(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.einsum("nrj,rci->ncij", second, first).reshape(len(self.weight), -1)


def test_a_product_is_what_the_two_windows_make_together() -> None:
    conv = Conv()
    found = conv.sides.factors(2)
    assert found.first.shape == (2, 3, 3) and found.second.shape == (5, 2, 2)
    assert found.product() == pytest.approx(conv.products(found.first, found.second))


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_no_turn_raises_the_error_and_the_last_ones_hardly_lower_it(rank: int) -> None:
    conv = Conv()
    now, errors = conv.sides.factors(rank, turns=0), []
    for _ in range(30):
        errors.append(conv.error(now.product()))
        now = conv.sides.improved(now, conv.sides.wanted)
    assert all(after <= before * (1 + 1e-7) for before, after in pairwise(errors))
    assert conv.error(conv.sides.factors(rank).product()) <= 1.03 * errors[-1]


@pytest.mark.parametrize("rank", [1, 2])
def test_the_alternation_ends_where_a_search_over_all_numbers_does(rank: int) -> None:
    conv = Conv(outputs=4, channels=2, kernel=(2, 2))
    scale = conv.error(np.zeros_like(conv.weight))

    def cost(numbers: np.ndarray) -> float:
        first, second = numbers[: rank * 4].reshape(rank, 2, 2), numbers[rank * 4 :].reshape(4, rank, 2)
        return conv.error(conv.products(first, second)) / scale

    rng = np.random.default_rng(1)
    best = min(minimize(cost, rng.standard_normal(rank * 12), method="BFGS").fun for _ in range(6))
    ours = conv.error(conv.sides.factors(rank, turns=60).product()) / scale
    assert ours == pytest.approx(best, rel=0.02, abs=1e-9)


def test_outputs_count_and_not_weights() -> None:
    conv = Conv(outputs=8, channels=4, kernel=(3, 3))
    for rank in (2, 4, 6):
        ours = conv.error(conv.sides.factors(rank).product())
        assert ours < 0.8 * conv.error(sides_by_singular_values(conv.weight, conv.kernel, rank).product())


@pytest.mark.parametrize("kernel", [(3, 3), (3, 2), (2, 5)])
def test_full_rank_gives_the_weight_again(kernel: tuple[int, int]) -> None:
    conv = Conv(kernel=kernel)
    full = Form(99, "spatial-svd").within(*conv.weight.shape, kernel).rank
    assert full == min(5 * kernel[1], 3 * kernel[0])
    assert conv.error(conv.sides.factors(full).product()) < 1e-6 * conv.sides.energy
    assert sides_by_singular_values(conv.weight, kernel, full).product() == pytest.approx(conv.weight)


def test_the_errors_of_all_ranks_are_those_of_each_before_a_turn() -> None:
    conv = Conv()
    ranks = [1, 3, 5]
    each = [conv.error(conv.sides.factors(rank, turns=0).product()) for rank in ranks]
    assert conv.sides.errors(ranks) == pytest.approx(each, rel=1e-5)
    assert conv.sides.energy == pytest.approx(conv.error(np.zeros_like(conv.weight)))


def test_the_nearest_product_is_the_truncated_svd() -> None:
    conv = Conv()
    spread = conv.weight.reshape(5, 9, 2).transpose(1, 0, 2).reshape(9, 10)
    sigma = np.linalg.svd(spread, compute_uv=False)
    missing = conv.weight - sides_by_singular_values(conv.weight, conv.kernel, 3).product()
    assert np.linalg.norm(missing) == pytest.approx(np.sqrt(np.sum(sigma[3:] ** 2)))


def test_inputs_without_any_variance_do_no_harm() -> None:
    conv = Conv()
    dead = np.zeros_like(conv.gram)
    for gram in (dead, np.diag(np.eye(len(dead))[0])):
        found = Sides(conv.weight, gram, conv.kernel).factors(2)
        assert np.isfinite(found.product()).all()
        assert np.isfinite(Sides(conv.weight, gram, conv.kernel).errors([1, 2])).all()


def test_gradients_with_an_exact_inverse_arrive_in_one_step() -> None:
    rng = np.random.default_rng(0)
    root = rng.standard_normal((6, 6))
    system, goal = root @ root.T + np.eye(6), rng.standard_normal((2, 6))
    factor = RidgeFactor(system, 0.0)
    found = descended(
        np.zeros((2, 6)), goal, lambda x: x @ system, lambda x: factor.solve(x.T, np.zeros(x.shape)), steps=1
    )
    assert found @ system == pytest.approx(goal)


def test_a_form_counts_what_its_two_windows_hold() -> None:
    columns, rows = Form(4, "spatial-svd").kept((3, 5))
    assert columns * (2 * 15) + rows * 7 == 4 * 2 * 3 + 7 * 4 * 5
    assert Form(4).kept((3, 5)) == (4, 4)
    assert Form(4, "spatial-svd").kept((3, 5), stretch=2.0)[0] == 2 * columns
