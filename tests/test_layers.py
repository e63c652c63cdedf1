"""Which layers can be solved again, in which order, and what lies around them."""

import numpy as np
import onnx_ir as ir
import pytest
from graph_text import Weights, model_from_text
from sweep_case import Net, net

from onnxprune.dependency import analyse
from onnxprune.layers import solvable
from onnxprune.trace import trace

SIGNATURE = "(float[N,4,6,6] x) => (float[N,4,6,6] y)"
FOUR: tuple[int, ...] = (4, 4, 1, 1)


def image(channels: int = 4, count: int = 2) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal((count, channels, 6, 6)).astype(np.float32)}


def of(body: str, weights: Weights, signature: str = SIGNATURE) -> Net:
    return net(signature, body, weights, image())


def around(network: Net) -> dict[str, tuple[int, str | None, bool]]:
    """Layer → (wave, partner, clipped)."""
    return {x.name: (x.wave, x.partner.name if x.partner is not None else None, x.clipped) for x in network.layers}


def test_layers_come_in_the_order_of_the_longest_way_to_them() -> None:
    body = """
    a = Conv (x, a_w) b = Conv (a, b_w) c = Conv (b, c_w)
    d = Conv (x, d_w) e = Add (d, c) y = Conv (e, y_w)
    """
    network = of(body, {f"{k}_w": FOUR for k in "abcdy"})
    assert {layer.name[-1]: layer.wave for layer in network.layers} == {"a": 0, "d": 0, "b": 1, "c": 2, "y": 3}
    assert [layer.wave for layer in network.layers] == [0, 0, 1, 2, 3]
    waves = network.wave
    assert {name: waves[name] for name in "abcdey"} == {"a": 1, "b": 2, "c": 3, "d": 1, "e": 3, "y": 4}


def test_a_value_is_final_after_what_the_bodies_of_its_node_read() -> None:
    body = """
    a = Conv (x, a_w) b = Conv (a, b_w) m = ReduceMean <keepdims = 0> (x) t = Greater (m, zero)
    s = If (t) <then_branch = p () => (float[N,4,6,6] o) { o = Neg (b) },
                else_branch = q () => (float[N,4,6,6] u) { u = Identity (x) }>
    y = Conv (s, y_w)
    """
    network = of(body, {"a_w": FOUR, "b_w": FOUR, "y_w": FOUR, "zero": np.float32(0)})
    waves = network.wave
    assert (waves["t"], waves["s"], waves["y"]) == (0, 2, 3)
    assert network.layer("Conv:y").wave == 2


def test_what_is_added_and_known_by_then_is_a_partner() -> None:
    body = """
    h = Conv (x, h_w) t = Tanh (h) a = Conv (t, a_w) b = Conv (a, b_w) r = Add (b, t) q = Relu (r)
    y = Conv (q, y_w)
    """
    found = around(of(body, {f"{k}_w": FOUR for k in "haby"}))
    assert found["Conv:b"] == (2, "t", True)
    assert found["Conv:a"] == (1, None, False)
    swapped = around(of(body.replace("(b, t)", "(t, b)"), {f"{k}_w": FOUR for k in "haby"}))
    assert swapped["Conv:b"] == (2, "t", True)


@pytest.mark.parametrize(
    ("body", "partner"),
    [
        ("a = Conv (x, a_w) b = Conv (x, b_w) y = Add (a, b)", None),  # of one wave: neither is known first
        ("a = Conv (x, a_w) t = Tanh (a) b = Conv (t, b_w) y = Add (a, b)", "a"),
        ("a = Conv (x, a_w) t = GlobalAveragePool (a) b = Conv (a, b_w) y = Add (b, t)", None),  # broadcast
        ("a = Conv (x, a_w) b = Conv (a, b_w) n = Neg (b) m = Add (b, a) y = Add (m, n)", None),  # read twice
        ("a = Conv (x, a_w) b = Conv (a, b_w) y = Mul (b, a)", None),
        ("a = Conv (x, a_w) b = Conv (a, b_w) m = Add (b, c) y = Add (m, a)", None),  # a constant is no partner
        ("a = Conv (x, a_w) b = Conv (a, b_w) y = Add (b, b)", None),
    ],
)
def test_a_partner_is_of_the_same_shape_earlier_and_alone(body: str, partner: str | None) -> None:
    weights: Weights = {"a_w": FOUR, "b_w": FOUR, "c": np.ones((1, 4, 6, 6), np.float32)}
    assert around(of(body, {k: v for k, v in weights.items() if k in body}))["Conv:b"][1] == partner


def test_the_shortcut_of_a_strided_block_is_the_partner_of_the_longer_branch() -> None:
    body = "h = Conv (x, h_w) c = Conv (h, c_w) d = Conv (c, d_w) p = Conv (h, p_w) r = Add (d, p) y = Relu (r)"
    found = around(of(body, {f"{k}_w": FOUR for k in "hcdp"}))
    assert found["Conv:d"][1:] == ("p", True)
    assert found["Conv:p"][1:] == (None, False)


@pytest.mark.parametrize(
    ("tail", "clipped"),
    [
        ("y = Relu (b)", True),
        ("p = Relu (b) q = Relu (b) y = Add (p, q)", True),
        ("p = Relu (b) y = Add (p, b)", False),
        ("y = LeakyRelu (b)", False),
        ("y = Neg (b)", False),
    ],
)
def test_only_a_relu_makes_negative_values_alike(tail: str, clipped: bool) -> None:
    assert around(of(f"b = Conv (x, b_w) {tail}", {"b_w": FOUR}))["Conv:b"][2] is clipped


def test_what_is_an_output_is_not_clipped() -> None:
    signature = "(float[N,4,6,6] x) => (float[N,4,6,6] y, float[N,4,6,6] b)"
    assert around(of("b = Conv (x, b_w) y = Relu (b)", {"b_w": FOUR}, signature))["Conv:b"][2] is False


def solvable_names(body: str, weights: Weights, x: np.ndarray, signature: str) -> list[str]:
    model = ir.from_proto(model_from_text(signature, body, weights))
    for i, node in enumerate(model.graph):
        node.name = f"{node.op_type}{i}"
    return [linear.node.name or "" for linear in solvable(analyse(model, trace(model, {"x": x})))]


def test_layers_with_shared_or_scaled_weights_are_not_solved() -> None:
    x, signature = np.ones((2, 4), np.float32), "(float[N,4] x) => (float[N,4] y)"

    def found(body: str, weights: Weights) -> list[str]:
        return solvable_names(body, weights, x, signature)

    square: Weights = {"w": (4, 4)}
    assert found("a = Gemm (x, w) y = Gemm (a, v)", {**square, "v": (4, 4)}) == ["Gemm0", "Gemm1"]
    assert found("a = Gemm (x, w) y = Gemm (a, w)", square) == []
    assert found("a = Gemm (x, w, b) y = Gemm (a, v, b)", {**square, "v": (4, 4), "b": (4,)}) == []
    assert found("y = Gemm <alpha = 0.5> (x, w)", square) == []
    assert found("y = Gemm <beta = 2.0> (x, w, b)", {**square, "b": (4,)}) == []


def test_depthwise_convolutions_are_not_solved() -> None:
    weights: Weights = {"d_w": (4, 1, 3, 3), "p_w": FOUR}
    body = "d = Conv <group = 4, pads = [1,1,1,1]> (x, d_w) y = Conv (d, p_w)"
    assert solvable_names(body, weights, image()["x"], SIGNATURE) == ["Conv1"]


def test_the_add_behind_a_product_holds_its_bias_and_comes_before_the_partner() -> None:
    body = """
    a = MatMul (x, a_w) h = Add (a, a_b) t = Tanh (h) b = MatMul (t, b_w) c = Add (b_b, b) r = Add (c, h)
    y = Relu (r)
    """
    weights: Weights = {"a_w": (4, 4), "a_b": (4,), "b_w": (4, 4), "b_b": (4,)}
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    network = net("(float[N,4] x) => (float[N,4] y)", body, weights, {"x": x})
    assert [layer.bias.name for layer in network.layers if layer.bias is not None] == ["a_b", "b_b"]
    assert around(network)["MatMul:b"] == (1, "h", True)
