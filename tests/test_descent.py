"""Steps on the first layer of a pair for the sake of the second, against autograd by finite differences and judges."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sweep_case import im2col

from onnxprune import descent
from onnxprune.descent import Weights, Window, descend

ACTIVATIONS: dict[str, tuple[float, float, float]] = {
    "relu": (0.0, np.inf, 0.0),
    "leaky": (0.0, np.inf, 0.2),
    "clip": (-0.5, 0.8, 0.0),
    "none": (-np.inf, np.inf, 0.0),
}


def activated(y: np.ndarray, low: float, high: float, leak: float) -> np.ndarray:
    return np.where(y < low, low + leak * (y - low) if leak else low, np.minimum(y, high))


def case(
    seed: int, activation: str, strides: tuple[int, int], clipped: bool, count: int = 3, noise: float = 0.3
) -> tuple[Window, Weights]:
    """A 1×1 convolution, the activation, a padded 3×3 convolution; the targets are those of other weights."""
    rng = np.random.default_rng(seed)
    low, high, leak = ACTIVATIONS[activation]
    size, features, hidden, outputs = 5, 4, 3, 2
    x = rng.standard_normal((count * size**2, features)).astype(np.float32)
    places = np.arange(1, 1 + count * size**2).reshape(count, 1, size, size)
    index = im2col(places, (3, 3), strides, (1, 1, 1, 1), (1, 1)).astype(np.intp) - 1
    shapes = ((hidden, features), (hidden,), (outputs, hidden * 9), (outputs,))
    first, first_bias, second, second_bias = (rng.standard_normal(s) * 0.5 for s in shapes)
    partner = rng.standard_normal((len(index), outputs))
    made = taps(activated(x @ first.T + first_bias, low, high, leak), index) @ second.T + second_bias + partner
    target = made + noise * rng.standard_normal(made.shape)
    window = Window(x, index, target.astype(np.float32), partner.astype(np.float32), clipped, low, high, leak)
    moved = first + 0.4 * rng.standard_normal(first.shape)
    start = Weights(*(a.astype(np.float32) for a in (moved, first_bias, second, second_bias)))
    return window, start


def taps(hidden: np.ndarray, index: np.ndarray) -> np.ndarray:
    """(P, m · T): what lies under each window, zeros for padding."""
    wide = np.concatenate([hidden, np.zeros((1, hidden.shape[1]))])
    return np.moveaxis(wide[index], 1, 2).reshape(len(index), -1)


def loss(window: Window, start: Weights, first: np.ndarray, bias: np.ndarray) -> float:
    """Half the squared error a row of the first layer, in float64, straight from its definition."""
    hidden = activated(window.x.astype(np.float64) @ first.T + bias, window.low, window.high, window.leak)
    total = taps(hidden, window.index) @ start.second.astype(np.float64).T + start.second_bias + window.partner
    wanted = window.target.astype(np.float64)
    if window.clipped:
        total, wanted = np.where(wanted > 0, total, np.maximum(total, 0)), np.maximum(wanted, 0)
    return float(((total - wanted) ** 2).sum()) / 2 / len(window.x)


def start_loss(window: Window, weights: Weights) -> float:
    return loss(window, weights, weights.first.astype(np.float64), weights.first_bias.astype(np.float64))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("strides", "clipped"), [((1, 1), False), ((2, 2), False), ((1, 1), True), ((2, 1), True)])
def test_the_gradient_is_that_of_finite_differences(activation: str, strides: tuple[int, int], clipped: bool) -> None:
    window, start = case(1, activation, strides, clipped)
    found = descent._gradient([window], descent._reach([window], start))
    first, bias = start.first.astype(np.float64), start.first_bias.astype(np.float64)
    assert found.shape == (3, 5)
    step = 1e-6
    for row in range(3):
        for column in range(5):
            ends = []
            for sign in (1, -1):
                w, b = first.copy(), bias.copy()
                if column < 4:
                    w[row, column] += sign * step
                else:
                    b[row] += sign * step
                ends.append(loss(window, start, w, b))
            slope = (ends[0] - ends[1]) / (2 * step)
            assert found[row, column] == pytest.approx(-slope, rel=1e-3, abs=1e-4), (row, column)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from(list(ACTIVATIONS)), st.booleans())
def test_the_error_on_the_judging_rows_never_rises(seed: int, activation: str, clipped: bool) -> None:
    window, start = case(seed, activation, (1, 1), clipped, count=6)
    judge = rows(window, slice(len(window.target) - len(window.target) // 8, None))
    after, told_before, told_after = descend([rows(window, slice(0, -len(judge.target)))], [judge], start)
    before, reached = start_loss(judge, start), start_loss(judge, after)
    assert reached <= before * (1 + 1e-5)
    assert told_after <= told_before
    scale = 2 * len(window.x) / (judge.target.var(0).sum() * len(judge.target))
    assert (told_before, told_after) == pytest.approx((before * scale, reached * scale), rel=1e-3, abs=1e-5)


def rows(window: Window, part: slice) -> Window:
    return replace(window, index=window.index[part], target=window.target[part], partner=window.partner[part])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("clipped", [False, True])
def test_a_few_steps_get_back_most_of_what_a_moved_weight_lost(activation: str, clipped: bool) -> None:
    window, start = case(2, activation, (1, 1), clipped, count=20, noise=0.0)
    after, before, left = descend([window], [window], start)
    assert left < 0.35 * before
    for name in ("second", "second_bias"):
        np.testing.assert_array_equal(getattr(after, name), getattr(start, name))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_rows_in_several_windows_count_as_in_one(activation: str) -> None:
    """Each window has the positions that lie under its own rows only, numbered anew."""
    window, start = case(7, activation, (2, 2), True, count=6)
    pieces = [own(rows(window, slice(i, i + 9))) for i in range(0, len(window.index), 9)]
    assert len(pieces) > 3 and all(len(piece.x) < len(window.x) for piece in pieces)
    one, several = descend([own(window)], [window], start), descend(pieces, pieces, start)
    whole, parts = descent._reach([own(window)], start), descent._reach(pieces, start)
    assert parts.error == pytest.approx(whole.error, rel=1e-5)
    count = sum(len(piece.x) for piece in pieces)
    found, expected = (descent._gradient(w, r) for w, r in ((pieces, parts), ([own(window)], whole)))
    np.testing.assert_allclose(found * count, expected * len(own(window).x), rtol=1e-4, atol=1e-4)
    assert several[2] < several[1] and one[2] < one[1]


def own(window: Window) -> Window:
    """The same rows with only the positions that lie under them."""
    unique, inverse = np.unique(window.index, return_inverse=True)
    padding = int(unique[0] < 0)
    return replace(window, x=window.x[unique[padding:]], index=inverse.reshape(window.index.shape) - padding)


def test_each_step_lowers_the_error_of_the_rows_it_was_made_on() -> None:
    window, start = case(3, "relu", (1, 1), True, count=6)
    now = descent._reach([window], start)
    assert now.error == pytest.approx(2 * len(window.x) * start_loss(window, start), rel=1e-4)
    for _ in range(5):
        moved = descent._line_search([window], now, descent._gradient([window], now).astype(np.float32))
        assert moved is not None
        assert moved.error < now.error
        now = moved
    assert now.error == pytest.approx(2 * len(window.x) * start_loss(window, now.weights), rel=1e-4)


def test_against_the_gradient_there_is_no_step() -> None:
    window, start = case(4, "none", (1, 1), False)
    now = descent._reach([window], start)
    uphill = -descent._gradient([window], now).astype(np.float32)
    moved = descent._line_search([window], now, uphill)
    assert moved is None or moved.error < now.error  # an exact step length turns round by itself
    nowhere = np.zeros_like(uphill)
    assert descent._line_search([window], now, nowhere) is None


def test_where_the_judging_rows_do_not_gain_all_stays_as_it_was() -> None:
    window, start = case(5, "relu", (1, 1), False, count=10, noise=0.0)
    hidden = activated(window.x @ start.first.T + start.first_bias, 0.0, np.inf, 0.0)
    already = taps(hidden, window.index) @ start.second.T + start.second_bias + window.partner
    content = replace(window, target=already.astype(np.float32))  # the judges want what there is
    after, before, left = descend([window], [rows(content, slice(0, 30))], start)
    assert after is start
    assert before == left


def test_a_single_row_is_no_obstacle() -> None:
    window, start = case(6, "relu", (1, 1), False)
    one = rows(window, slice(0, 1))
    after, before, left = descend([one], [one], start)
    assert left <= before
    assert np.all(np.isfinite(after.first))
