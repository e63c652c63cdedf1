"""Which rows are used: the same each time, spread over all inputs and all positions, never too few."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from graph_text import Weights
from hypothesis import given, settings
from hypothesis import strategies as st
from sweep_case import net

from onnxprune.calibration.rows import position_count, spread
from onnxprune.calibration.sampling import Sampling, held_out
from onnxprune.op_rules.facts import Linear

BODY = """
a = Conv <pads=[1,1,1,1]> (x, a_w) b = Conv <group = 4, pads=[1,1,1,1]> (a, b_w) c = Conv <strides=[2,2]> (b, c_w)
g = GlobalAveragePool (c) f = Flatten (g) y = Gemm (f, y_w)
"""
WEIGHTS: Weights = {"a_w": (32, 3, 3, 3), "b_w": (32, 8, 3, 3), "c_w": (64, 32, 2, 2), "y_w": (64, 10)}
SIDE = {"Conv:a": 16, "Conv:b": 16, "Conv:c": 8, "Gemm:y": 1}


@cache
def layers() -> tuple[dict[str, Linear], Sampling]:
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    network = net("(float[N,3,16,16] x) => (float[N,10] y)", BODY, WEIGHTS, {"x": x})
    return {layer.name: layer.linear for layer in network.layers}, network.sampling


def sampling(samples: int, batch: int, count: int = 20, seed: int = 0) -> Sampling:
    return Sampling(samples, -(-samples // batch), count, layers()[1].trace, seed)


def shape(name: str, batch: int) -> tuple[int, ...]:
    channels = layers()[0][name].features.size // (9 if name in ("Conv:a", "Conv:b") else 4 if name == "Conv:c" else 1)
    size = {"Conv:a": 16, "Conv:b": 16, "Conv:c": 16}.get(name)
    return (batch, channels, size, size) if size else (batch, channels)


def drawn(name: str, given: Sampling, samples: int, batch: int) -> list[np.ndarray]:
    linear = layers()[0][name]
    sizes = [min(batch, samples - start) for start in range(0, samples, batch)]
    return [given.positions(linear, shape(name, size), i) for i, size in enumerate(sizes)]


@pytest.mark.parametrize("name", SIDE)
def test_few_inputs_are_used_whole(name: str) -> None:
    given = sampling(4, 4)
    (where,) = drawn(name, given, 4, 4)
    assert where.tolist() == list(range(4 * SIDE[name] ** 2))
    assert given.used(layers()[0][name]) == 1


@settings(max_examples=30)
@given(st.sampled_from(list(SIDE)), st.integers(1, 3000), st.integers(1, 64), st.integers(1, 200))
def test_every_layer_gets_ten_rows_a_feature_or_all_there_are(name: str, samples: int, batch: int, count: int) -> None:
    linear, given = layers()[0][name], sampling(samples, batch, count)
    total = samples * SIDE[name] ** 2
    parts = drawn(name, given, samples, batch)
    rows = sum(map(len, parts))
    assert rows >= min(total, 10 * linear.features.shape[1])
    assert rows <= total
    used = given.used(linear)
    assert 1 <= used <= given.batches
    assert all(len(part) > 0 for part in parts[:used])
    assert all(len(part) == 0 for part in parts[used:])


def test_a_layer_that_needs_few_rows_takes_them_from_many_inputs() -> None:
    linear = layers()[0]["Conv:a"]
    given = sampling(500, 4)
    assert given.rows(linear) < 0.05 * 500 * SIDE["Conv:a"] ** 2
    assert given.used(linear) * 4 == 64
    assert sampling(48, 4).used(linear) * 4 == 48


def test_no_layer_takes_more_than_64_rows_a_feature() -> None:
    for linear in layers()[0].values():
        assert sampling(10**6, 64, count=1).rows(linear) <= 64 * linear.features.shape[1]


def test_layers_choose_on_a_quarter_of_the_rows_where_those_cost_and_on_all_where_not() -> None:
    linear = layers()[0]["Conv:c"]
    features = linear.features.shape[1]
    assert sampling(10**6, 64, count=20).step_to_choose(linear) == 1
    dear = sampling(10**6, 64, count=10**6)
    assert dear.rows(linear) == 10 * features
    assert dear.step_to_choose(linear) == 4
    few = sampling(4, 4, count=10**6)
    assert few.step_to_choose(linear) == max(1, int(few.rows(linear) / (2.5 * features)))


def test_more_rows_than_are_worth_their_time_are_not_taken() -> None:
    linears, given = layers()[0], sampling(10**6, 64, count=50)
    for name in ("Conv:a", "Conv:b", "Conv:c"):
        assert given.rows(linears[name]) < 0.5 * 10**6 * SIDE[name] ** 2
        assert given.used(linears[name]) < given.batches
    assert sampling(10**6, 64, count=100).rows(linears["Conv:c"]) <= given.rows(linears["Conv:c"])


@pytest.mark.parametrize("name", ["Conv:a", "Conv:b", "Conv:c"])
def test_the_positions_are_the_same_each_time_and_others_in_each_batch(name: str) -> None:
    given, linear = sampling(10**6, 8, count=50), layers()[0][name]
    again = sampling(10**6, 8, count=50)
    first, second = (s.positions(linear, shape(name, 8), 0) for s in (given, again))
    np.testing.assert_array_equal(first, second)
    assert len(first) < position_count(linear, shape(name, 8))
    for other in (
        given.positions(linear, shape(name, 8), 1),
        sampling(10**6, 8, 50, seed=1).positions(linear, shape(name, 8), 0),
    ):
        assert len(other) == len(first)
        assert not np.array_equal(other, first)


@pytest.mark.parametrize("name", ["Conv:a", "Conv:b", "Conv:c"])
def test_positions_are_distinct_and_evenly_spread(name: str) -> None:
    given, linear = sampling(10**6, 8, count=50), layers()[0][name]
    total = position_count(linear, shape(name, 8))
    for batch in range(3):
        where = given.positions(linear, shape(name, 8), batch)
        assert where[0] >= 0 and where[-1] < total
        assert all(left < right for left, right in pairwise(where.tolist()))
        stretch = total / len(where)
        offset = where - (np.arange(len(where)) + 0.5) * stretch
        assert np.abs(offset).max() <= stretch / 2 + 1
        assert offset.std() > 0.2 * stretch  # a fixed grid would meet the same columns of every image


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 99))
def test_no_position_is_drawn_twice(total: int, wanted: int, seed: int) -> None:
    where = spread(total, wanted, seed)
    assert len(set(where.tolist())) == len(where) == min(total, wanted)
    assert where.min() >= 0 and where.max() < total


def test_borders_are_drawn_as_often_as_the_middle() -> None:
    linear = layers()[0]["Conv:a"]
    runs = [sampling(10**6, 64, count=50, seed=seed) for seed in range(40)]
    where = np.concatenate([given.positions(linear, shape("Conv:a", 64), 0) for given in runs])
    row, column = np.divmod(where % 256, 16)
    for counts in (np.bincount(row, minlength=16), np.bincount(column, minlength=16)):
        assert counts.min() > 0.8 * counts.mean()
        assert counts.max() < 1.2 * counts.mean()


@given(st.integers(1, 64), st.integers(1, 40))
def test_about_an_eighth_judges_and_always_the_end_of_a_batch(rows: int, batches: int) -> None:
    slices = [held_out(rows, batch) for batch in range(batches)]
    assert all(s.stop == rows and 0 <= s.start <= rows for s in slices)
    held = sum(rows - s.start for s in slices)
    assert held <= rows * batches / 8 + 1e-9
    assert held >= rows * batches / 16 - rows
    assert any(s.start > 0 for s in slices)
