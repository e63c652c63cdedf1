import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.calibration.statistics import Moments, Tally


def _rows(seed: int, count: int, features: int, outputs: int, mean: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, features)) @ rng.standard_normal((features, features)) + mean
    y = x @ rng.standard_normal((features, outputs)) + rng.standard_normal((count, outputs))
    return x.astype(np.float32), y.astype(np.float32)


def _collected(x: np.ndarray, y: np.ndarray | None) -> Tally:
    tally = Tally(x.shape[1], 0 if y is None else y.shape[1])
    tally.add(x, y)
    return tally


def _assert_moments_are_numpys(moments: Moments, x: np.ndarray, y: np.ndarray) -> None:
    x, y = x.astype(np.float64), y.astype(np.float64)
    xc, yc = x - x.mean(axis=0), y - y.mean(axis=0)
    scale_x, scale_y = np.sqrt((xc**2).mean()), np.sqrt((yc**2).mean())
    np.testing.assert_allclose(moments.gram, xc.T @ xc / len(x), atol=1e-5 * scale_x**2 * x.shape[1])
    np.testing.assert_allclose(moments.cross, xc.T @ yc / len(x), atol=1e-5 * scale_x * scale_y * x.shape[1])
    np.testing.assert_allclose(moments.energies, (yc**2).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(moments.mean_x, x.mean(axis=0), rtol=1e-5, atol=1e-5 * scale_x)
    np.testing.assert_allclose(moments.mean_y, y.mean(axis=0), rtol=1e-5, atol=1e-5 * scale_y)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(2, 300), st.integers(1, 12), st.integers(1, 5), st.sampled_from([0.0, 3.0]))
def test_moments_equal_numpys_covariances(seed: int, count: int, features: int, outputs: int, mean: float) -> None:
    x, y = _rows(seed, count, features, outputs, mean)
    _assert_moments_are_numpys(_collected(x, y).moments(), x, y)


def test_a_mean_a_thousand_times_the_spread_does_not_drown_the_covariance() -> None:
    x, y = _rows(0, 9000, 8, 3, 0.0)
    x, y = x + np.float32(2000), y + np.float32(5000)
    tally = Tally(8, 3)
    for part in range(0, 9000, 1000):
        tally.add(x[part : part + 1000], y[part : part + 1000])
    _assert_moments_are_numpys(tally.moments(), x, y)


def test_more_rows_than_one_chunk_count_once_each() -> None:
    x, y = _rows(2, 10_001, 3, 2, 1.0)
    moments = _collected(x, y).moments()
    assert moments.count == 10_001
    _assert_moments_are_numpys(moments, x, y)


def test_update_leaves_the_callers_arrays_alone() -> None:
    x, y = _rows(3, 100, 4, 2, 1000.0)
    before = x.copy(), y.copy()
    _collected(x, y)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])


def test_linear_targets_follow_from_the_gram_matrix() -> None:
    x, _ = _rows(4, 400, 5, 1, 1.0)
    weight = np.random.default_rng(5).standard_normal((3, 5))
    moments = _collected(x, None).moments().with_linear_targets(weight)
    _assert_moments_are_numpys(moments, x, x.astype(np.float64) @ weight.T)
    assert moments.energy == pytest.approx(float(moments.energies.sum()))


def test_a_constant_feature_has_exactly_zero_moments() -> None:
    x, y = _rows(6, 300, 4, 2, 1.0)
    x[:, 2] = 0.1
    moments = _collected(x, y).moments()
    assert not moments.gram[2].any()
    assert not moments.gram[:, 2].any()
    assert not moments.cross[2].any()


def test_targets_must_match_what_the_sums_were_made_for() -> None:
    x, y = _rows(7, 10, 3, 2, 0.0)
    with pytest.raises(ValueError, match="got no targets"):
        Tally(3, 2).add(x)
    with pytest.raises(ValueError, match="got some targets"):
        Tally(3).add(x, y)


def test_an_empty_tally_says_that_no_data_arrived() -> None:
    with pytest.raises(ValueError, match="no rows"):
        Tally(3).moments()


@pytest.mark.parametrize("sizes", [(1,) * 40, (3, 500, 2, 2, 1, 700), (2000, 1), (512,), (511, 1, 1)])
def test_a_tally_of_lots_has_the_sums_of_all_rows(sizes: tuple[int, ...]) -> None:
    x, y = _rows(3, sum(sizes), 20, 3, 1.0)
    tally = Tally(20, 3)
    for start, size in zip(np.cumsum((0, *sizes[:-1])), sizes, strict=True):
        lot_x, lot_y = x[start : start + size].copy(), y[start : start + size].copy()
        tally.add(lot_x, lot_y)
        lot_x[:], lot_y[:] = np.nan, np.nan  # rows that wait are copies
    assert tally.count == len(x)
    _assert_moments_are_numpys(tally.moments(), x, y)


def test_moments_may_be_asked_for_between_rows() -> None:
    x, y = _rows(5, 1500, 20, 3, 1.0)
    tally = Tally(20, 3)
    for rows in (slice(0, 300), slice(300, 1500)):
        tally.add(x[rows], y[rows])
        _assert_moments_are_numpys(tally.moments(), x[: rows.stop], y[: rows.stop])


@pytest.mark.parametrize("first", [0, 1, 300, 600])
def test_a_tally_absorbs_another_whose_rows_have_another_mean(first: int) -> None:
    x, y = _rows(4, 600, 33, 2, 4.0)
    x[first:] += 3
    y[first:] -= 5
    one, other = Tally(33, 2), Tally(33, 2)
    for tally, rows in ((one, slice(0, first)), (other, slice(first, 600))):
        tally.add(x[rows], y[rows])
    one.absorb(other)
    moments = one.moments()
    np.testing.assert_array_equal(moments.gram, moments.gram.T)
    _assert_moments_are_numpys(moments, x, y)


def test_a_first_lot_that_is_like_no_other_costs_no_precision_that_matters() -> None:
    x, y = _rows(9, 3000, 6, 2, 0.0)
    x[:100] += 300
    _assert_moments_are_numpys(_collected(x, y).moments(), x, y)
