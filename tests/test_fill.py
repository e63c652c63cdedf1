"""ConstantOfShape and Expand: positions that all hold the same can go, and the size that made them follows."""

import numpy as np
from graph_text import Weights, integers, model_from_text
from op_case import facts_of, fixed, outs, params, sizes
from removal import Case, analysed, check_every_removal

from onnxprune.op_rules.facts import Settled

X = {"x": (2, 4, 5)}
ROWS = {"rows": np.array([[3, 0, 8, 1]]), "k": integers(4)}
SHAPE = "n = Shape <start=0, end=1> (x) s = Concat <axis=0> (n, k) "


def test_a_constant_size_makes_positions_that_can_go() -> None:
    facts = facts_of(SHAPE + "y = ConstantOfShape (s)", X, {}, {"k": integers(1, 3)})
    assert outs(facts) == {(2,): [100, 101, 102]}
    assert [(element, atoms) for _, element, atoms, _ in sizes(facts)] == [(1, [100, 101, 102])]


def test_expand_repeats_a_constant_but_makes_no_channels_of_an_activation() -> None:
    constant = facts_of(SHAPE + "y = Expand (zero, s)", X, {}, {"k": integers(3), "zero": np.zeros(1, np.float32)})
    assert outs(constant) == {(1,): [100, 101, 102]}
    facts = facts_of("y = Expand (x, s)", {"x": (2, 1, 5)}, {}, {"s": integers(1, 3, 1)})
    assert outs(facts) == {}


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


def test_positions_stay_where_an_operator_takes_them_as_a_setting() -> None:
    body = "i = Expand (rows, s) e = Gather (table, i) m = MatMul (e, e_w) p = MatMul (a, b_w) y = Add (p, m)"
    weights: Weights = {"a_w": (5, 6), "b_w": (6, 3), "e_w": (7, 3), "table": (9, 7)}
    case = whole("n = Shape <start=0, end=1> (x) s = Concat <axis=0> (n, k) " + body, {**weights, **ROWS})
    assert case.widths() == {"MatMul:a": 6, "table": 7}
    check_every_removal(case)


def test_a_shape_that_is_filled_with_ones_stays_as_it_is() -> None:
    body = "r = ConstantOfShape <value=int64[1]{1}> (three) e = Expand (a, r) y = MatMul (e, b_w)"
    case = whole(body, {"a_w": (5, 6), "b_w": (6, 3), "three": integers(3)})
    assert case.widths() == {"MatMul:a": 6}
    check_every_removal(case)


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
