"""Pairs of layers with an activation between, and the rows that join them, against plain windows of positions."""

from typing import Any

import numpy as np
import pytest
from graph_text import Weights
from hypothesis import given, settings
from hypothesis import strategies as st
from sweep_case import Net, im2col, net

from onnxprune.calibration.rows import position_count
from onnxprune.pairs import find_pairs, taps_under

INF = np.inf
SIGNATURE = "(float[N,4,8,8] x) => (float[A,B,C,D] y)"
KERNEL: tuple[int, ...] = (4, 4, 3, 3)


def conv_net(body: str, extra: Weights | None = None, kernel: tuple[int, ...] = KERNEL, opset: int = 17) -> Net:
    x = np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)
    weights: Weights = {name: kernel for name in ("a_w", "b_w") if name in body}
    return net(SIGNATURE, body, {**weights, **(extra or {})}, {"x": x}, opset=opset)


def found(network: Net) -> dict[str, tuple[str, float, float, float]]:
    pairs = find_pairs(network.layers)
    return {name: (p.first.name, p.low, p.high, round(p.leak, 6)) for name, p in pairs.items()}


SIX: Weights = {"low": np.float32(0), "six": np.float32(6)}
JOINED: dict[str, tuple[str, Weights, tuple[float, float, float]]] = {
    "relu": ("h = Relu (a)", {}, (0.0, INF, 0.0)),
    "leaky": ("h = LeakyRelu <alpha = 0.25> (a)", {}, (0.0, INF, 0.25)),
    "leaky-default": ("h = LeakyRelu (a)", {}, (0.0, INF, 0.01)),
    "clip": ("h = Clip (a, low, six)", SIX, (0.0, 6.0, 0.0)),
    "clip-above": ("h = Clip (a, , six)", {"six": np.float32(6)}, (-INF, 6.0, 0.0)),
    "clip-below": ("h = Clip (a, low)", {"low": np.float32(0)}, (0.0, INF, 0.0)),
    "identity": ("h = Identity (a)", {}, (-INF, INF, 0.0)),
}


@pytest.mark.parametrize("case", JOINED)
def test_layers_with_a_clipping_activation_between_are_a_pair(case: str) -> None:
    between, extra, bounds = JOINED[case]
    network = conv_net(f"a = Conv (x, a_w) {between} y = Conv (h, b_w)", extra)
    assert found(network) == {"Conv:y": ("Conv:a", *bounds)}


def test_the_bounds_of_an_old_clip_are_attributes() -> None:
    network = conv_net("a = Conv (x, a_w) h = Clip <min = -1.0, max = 6.0> (a) y = Conv (h, b_w)", opset=10)
    assert found(network) == {"Conv:y": ("Conv:a", -1.0, 6.0, 0.0)}


@pytest.mark.parametrize(
    "between",
    [
        "h = MaxPool <kernel_shape = [2,2]> (a)",
        "h = Tanh (a)",
        "h = Sigmoid (a)",
        "r = Relu (a) h = AveragePool <kernel_shape = [2,2]> (r)",
        "r = Relu (a) h = Relu (r)",
        "n = Neg (a) r = Relu (a) h = Add (r, n)",
        "h = Add (a, a)",
        "r = Tanh (a) h = Relu (r)",
    ],
)
def test_anything_else_between_makes_no_pair(between: str) -> None:
    assert found(conv_net(f"a = Conv (x, a_w) {between} y = Conv (h, b_w)")) == {}


@pytest.mark.parametrize(
    "body",
    [
        "a = Conv (x, a_w) h = Relu (a) b = Conv (h, b_w) p = Conv (h, c_w) y = Add (b, p)",
        "a = Conv (x, a_w) h = Relu (a) b = Conv (h, b_w) t = Tanh (a) c = Conv (t, c_w) y = Add (b, c)",
    ],
)
def test_a_value_that_is_read_twice_makes_no_pair(body: str) -> None:
    assert found(conv_net(body, {"c_w": KERNEL})) == {}


def test_a_value_that_is_an_output_makes_no_pair() -> None:
    x = {"x": np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)}
    weights: Weights = {"a_w": KERNEL, "b_w": KERNEL}
    for name in ("a", "h"):
        signature = f"(float[N,4,8,8] x) => (float[A,B,C,D] y, float[A,E,F,G] {name})"
        assert found(net(signature, "a = Conv (x, a_w) h = Relu (a) y = Conv (h, b_w)", weights, x)) == {}


@pytest.mark.parametrize(("first", "second"), [(" <group = 2>", ""), ("", " <group = 2>")])
def test_grouped_convolutions_make_no_pair(first: str, second: str) -> None:
    narrow: tuple[int, ...] = (4, 2, 3, 3)
    weights: Weights = {"a_w": narrow if first else KERNEL, "b_w": narrow if second else KERNEL}
    assert found(conv_net(f"a = Conv{first} (x, a_w) h = Relu (a) y = Conv{second} (h, b_w)", weights)) == {}


def test_dense_layers_pair_with_each_other_and_not_with_convolutions() -> None:
    body = "a = Gemm (x, a_w, a_b) h = Relu (a) p = MatMul (h, b_w) b = Add (p, b_b) r = Relu (b) y = Gemm (r, c_w)"
    weights: Weights = {"a_w": (4, 5), "a_b": (5,), "b_w": (5, 6), "b_b": (6,), "c_w": (6, 3)}
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    network = net("(float[N,4] x) => (float[N,3] y)", body, weights, {"x": x})
    bounds = (0.0, INF, 0.0)
    assert found(network) == {"MatMul:p": ("Gemm:a", *bounds), "Gemm:y": ("MatMul:p", *bounds)}
    mixed = "a = Conv (x, a_w) h = Relu (a) y = MatMul (h, d_w)"
    assert found(conv_net(mixed, {"d_w": (6, 3)})) == {}


def test_layers_that_were_left_out_make_no_pair() -> None:
    network = conv_net("a = Conv (x, a_w) h = Relu (a) y = Conv (h, b_w)")
    assert find_pairs(network.layers[1:]) == {}


def windows(shape: tuple[int, ...], **attributes: Any) -> np.ndarray:
    """The flat position under each tap at each place, −1 for padding: im2col of the positions themselves."""
    positions = np.arange(1, 1 + shape[0] * shape[2] * shape[3]).reshape(shape[0], 1, *shape[2:])
    return im2col(positions, **attributes) - 1


@settings(max_examples=25)
@given(st.data())
def test_the_positions_under_a_window_are_those_of_im2col(data: st.DataObject) -> None:
    kernel, strides, dilations = (data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) for _ in range(3))
    pads = data.draw(st.tuples(*[st.integers(0, 2)] * 4))
    text = (
        f"kernel_shape = {list(kernel)}, strides = {list(strides)}, dilations = {list(dilations)}, pads = {list(pads)}"
    )
    network = conv_net(f"a = Conv (x, a_w) y = Conv <{text}> (x, b_w)", {"b_w": (4, 4, *kernel)})
    second, shape = network.layer("Conv:y"), (2, 4, 8, 8)
    expected = windows(shape, kernel=kernel, strides=strides, pads=pads, dilations=dilations)
    every = np.arange(position_count(second.linear, shape))
    np.testing.assert_array_equal(taps_under(second, every, shape), expected)
    some = np.random.default_rng(0).permutation(every)[:5]
    np.testing.assert_array_equal(taps_under(second, some, shape), expected[some])


def test_a_dense_layer_reads_one_position() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    network = net("(float[N,3,4] x) => (float[N,3,6] y)", "y = MatMul (x, w)", {"w": (4, 6)}, {"x": x})
    assert taps_under(network.layers[0], np.array([4, 0, 5]), (2, 3, 4)).tolist() == [[4], [0], [5]]
