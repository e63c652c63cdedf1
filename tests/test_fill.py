"""ConstantOfShape and Expand: positions that all hold the same can go, and the size that made them follows."""

import numpy as np
import pytest
from graph_text import Weights, integers, model_from_text
from op_case import facts_of, fixed, outs, params, sizes
from removal import Case, analysed, check_every_removal

from onnxprune.op_rules.facts import Settled

X = {"x": (2, 4, 5)}
SHAPE = "n = Shape <start=0, end=1> (x) s = Concat <axis=0> (n, k) "


def test_a_constant_size_makes_positions_that_can_go() -> None:
    facts = facts_of(SHAPE + "y = ConstantOfShape (s)", X, {}, {"k": integers(1, 3)})
    assert outs(facts) == {(2,): [100, 101, 102]}
    assert [(element, atoms) for _, element, atoms, _ in sizes(facts)] == [(1, [100, 101, 102])]


def test_expand_repeats_a_scalar_and_a_single_position() -> None:
    constant = facts_of(SHAPE + "y = Expand (zero, s)", X, {}, {"k": integers(3), "zero": np.zeros(1, np.float32)})
    assert outs(constant) == {(1,): [100, 101, 102]}
    facts = facts_of("t = Cast <to=1> (x) y = Expand (t, s)", {"x": (2, 1, 5)}, {}, {"s": integers(1, 3, 1)})
    assert outs(facts) == {}  # what it is made of is not declared, so it may be indices


def test_a_constant_that_is_repeated_loses_positions_of_its_own() -> None:
    facts = facts_of(SHAPE + "y = Expand (token, s)", X, {}, {"k": integers(1, 6), "token": (1, 1, 6)})
    assert outs(facts) == {(2,): [100, 101, 102, 103, 104, 105]}
    assert params(facts, 0) == {(2,): ([100, 101, 102, 103, 104, 105], False)}
    assert len(sizes(facts)) == 1


def test_a_size_taken_from_channels_takes_them_along() -> None:
    facts = facts_of("s = Shape (x) y = ConstantOfShape (s)", X, {"x": {(1,): [6, 7, 8, 9]}})
    assert outs(facts) == {(1,): [6, 7, 8, 9]}
    assert [f.element for f in facts if isinstance(f, Settled)] == [1]
    assert fixed(facts) == sizes(facts) == []


@pytest.mark.parametrize("node", ["ConstantOfShape (n)", "ConstantOfShape <value=int64[1]{1}> (s)"])
def test_vectors_and_integers_may_be_settings_and_carry_nothing(node: str) -> None:
    assert outs(facts_of(SHAPE + f"y = {node}", X, {}, {"k": integers(1, 3)})) == {}


def whole(body: str, weights: Weights) -> Case:
    model = model_from_text("(float[N,4,5] x) => (float[N,4,3] y)", f"a = MatMul (x, a_w) {body}", weights)
    return analysed(model)


def test_zeros_of_the_shape_of_channels_lose_the_same() -> None:
    body = "s = Shape (a) z = ConstantOfShape (s) m = Max (a, z) y = MatMul (m, b_w)"
    case = whole(body, {"a_w": (5, 6), "b_w": (6, 3)})
    assert case.widths() == {"MatMul:a": 6}
    check_every_removal(case)


def test_a_token_that_is_repeated_for_every_input_and_set_before_the_others() -> None:
    body = (
        "n = Shape <start=0, end=1> (x) s = Concat <axis=0> (n, k) t = Expand (token, s) c = Concat <axis=1> (t, a) "
        "r = Relu (c) p = MatMul (r, b_w) y = Slice (p, one, five, one)"
    )
    weights: Weights = {"a_w": (5, 6), "b_w": (6, 3), "token": (1, 1, 6), "k": integers(1, 6)}
    case = whole(body, {**weights, "one": integers(1), "five": integers(5)})
    assert case.widths() == {"MatMul:a": 6}
    check_every_removal(case)
