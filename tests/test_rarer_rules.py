"""Rules of operators that few models have, or that this runtime runs nowhere on a CPU: what they say, with values."""

import numpy as np
import pytest
from graph_text import Weights
from op_case import facts_of, fixed, outs, params, ties

from onnxprune.op_rules.facts import Part

FOUR, FIVE = [0, 1, 2, 3], [10, 11, 12, 13, 14]
X = {"x": (2, 4, 5)}
BOTH = {"x": {(1,): FOUR, (2,): FIVE}}


def test_a_running_product_holds_its_own_axis() -> None:
    facts = facts_of("y = CumProd (x, k)", X, BOTH, {"k": np.int64(2)}, 26, made={"y": (2, 4, 5)})
    assert fixed(facts) == FIVE
    assert outs(facts) == {(1,): FOUR, (2,): FIVE}


def test_channels_pass_a_cast_to_the_type_of_a_constant() -> None:
    facts = facts_of("y = CastLike (x, k)", X, BOTH, {"k": np.float16(1)})
    assert outs(facts) == {(1,): FOUR, (2,): FIVE}
    assert fixed(facts) == []


def test_both_halves_of_a_gated_unit_go_together() -> None:
    shapes, made = {"x": (2, 4, 5), "z": (2, 4, 5)}, {"y": (2, 4, 5)}
    facts = facts_of(
        "y = SwiGLU (x, z)", shapes, {"x": {(2,): FIVE}, "z": {(2,): [5, 6, 7, 8, 9]}}, opset=27, made=made
    )
    assert ties(facts) == [(FIVE, [5, 6, 7, 8, 9])]


def test_a_fused_bias_is_cut_and_its_skip_goes_along() -> None:
    shapes = {"x": (2, 3, 5), "z": (2, 3, 5)}
    labelled = {"x": {(2,): FIVE}, "z": {(2,): [5, 6, 7, 8, 9]}}
    made = {"y": (2, 3, 5)}
    facts = facts_of("y = com.microsoft.BiasAdd (x, b, z)", shapes, labelled, {"b": (5,)}, made=made)
    assert params(facts, 1) == {(0,): (FIVE, False)}
    assert ties(facts) == [(FIVE, [5, 6, 7, 8, 9])]
    assert outs(facts) == {(2,): FIVE}


def test_a_channels_last_pool_passes_the_last_axis_alone() -> None:
    shapes, made = {"x": (1, 6, 6, 4)}, {"y": (1, 3, 3, 4)}
    labelled = {"x": {(3,): FOUR, (1,): [4, 5, 6, 7, 8, 9]}}
    facts = facts_of("y = com.microsoft.NhwcMaxPool <kernel_shape=[2,2]> (x)", shapes, labelled, made=made)
    assert outs(facts) == {(3,): FOUR}
    assert fixed(facts) == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("kind", ["Resize", "Upsample"])
def test_upsampling_passes_the_axes_that_keep_their_size(kind: str) -> None:
    scales = np.array([1, 1, 2, 2], np.float32)
    operands, opset = ("(x, scales)", 9) if kind == "Upsample" else ("(x, none, scales)", 13)
    weights: Weights = {"scales": scales, **({} if kind == "Upsample" else {"none": np.zeros(0, np.float32)})}
    labelled = {"x": {(1,): FOUR, (2,): FIVE}}
    facts = facts_of(f'y = {kind} <mode="nearest"> {operands}', {"x": (1, 4, 5, 6)}, labelled, weights, opset)
    assert outs(facts) == {(1,): FOUR}
    assert fixed(facts) == FIVE


@pytest.mark.parametrize("kind", ["BlackmanWindow", "HammingWindow", "HannWindow"])
def test_a_window_s_length_carries_no_channel_on(kind: str) -> None:
    facts = facts_of(f"s = Shape <start=1, end=2> (x) n = Squeeze (s) y = {kind} (n)", X, BOTH)
    assert outs(facts) == {}
    assert fixed(facts) == []


def test_a_matrix_of_mel_weights_is_made_anew() -> None:
    weights: Weights = {name: np.int64(number) for name, number in (("n", 8), ("d", 16), ("r", 8192))}
    weights |= {"l": np.float32(0), "u": np.float32(4096)}
    facts = facts_of("y = MelWeightMatrix (n, d, r, l, u)", X, BOTH, weights)
    assert outs(facts) == {}
    assert fixed(facts) == []


@pytest.mark.parametrize("node", ["RandomNormal <shape=[2,4]> ()", "RandomUniform <shape=[2,4]> ()"])
def test_random_numbers_have_no_channels(node: str) -> None:
    assert outs(facts_of(f"y = {node}", X, BOTH)) == {}


def test_numbers_counted_up_have_no_channels() -> None:
    weights: Weights = {"a": np.float32(0), "b": np.float32(4), "c": np.float32(1)}
    assert outs(facts_of("y = com.microsoft.Range (a, b, c)", X, BOTH, weights)) == {}


def test_an_identity_matrix_counts_the_positions_that_it_is_like() -> None:
    facts = facts_of("y = EyeLike (x)", {"x": (4, 5)}, {"x": {(0,): FOUR, (1,): FIVE}})
    assert fixed(facts) == FOUR + FIVE
    assert outs(facts) == {}


def test_quanta_of_the_runtime_s_own_have_scales_along_their_channels() -> None:
    weights: Weights = {"s": np.full(4, 0.1, np.float32), "z": np.zeros(4, np.uint8)}
    facts = facts_of("y = com.microsoft.QuantizeLinear <axis=1> (x, s, z)", X, BOTH, weights)
    assert params(facts, 1) == params(facts, 2) == {(0,): (FOUR, False)}
    assert outs(facts) == {(1,): FOUR, (2,): FIVE}
    text = "q = com.microsoft.QuantizeLinear <axis=1> (x, s, z) y = com.microsoft.DequantizeLinear <axis=1> (q, s, z)"
    facts = facts_of(text, X, {"q": BOTH["x"]}, weights)
    assert params(facts, 1) == params(facts, 2) == {(0,): (FOUR, False)}
    assert outs(facts) == {(1,): FOUR, (2,): FIVE}


def test_a_root_mean_square_norm_holds_its_axis_and_cuts_its_scale() -> None:
    facts = facts_of("y = RMSNormalization <axis=-1> (x, g)", X, BOTH, {"g": (5,)}, 23)
    assert fixed(facts) == FIVE
    assert params(facts, 1) == {(0,): (FIVE, False)}
    assert outs(facts) == {(1,): FOUR, (2,): FIVE}
    assert not any(isinstance(fact, Part) for fact in facts)
