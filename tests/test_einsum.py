"""Einsum: summed, passing and new letters, told as facts and proved on whole networks."""

import numpy as np
import onnx
import pytest
from graph_text import Weights, model_from_text
from op_case import facts_of, fixed, linear, outs, params, ties
from removal import analysed, check_every_removal

from onnxprune.op_rules.facts import Fact, Product, Summed
from onnxprune.weights import to_matrix

FOUR = [0, 1, 2, 3]
X = {"x": (2, 3, 4)}
ON_LAST = {"x": {(2,): FOUR}}


def einsum(equation: str, *operands: str, **known: object) -> list[Fact]:
    text = f'y = Einsum <equation="{equation}"> ({", ".join(operands)})'
    return facts_of(text, known["shapes"], known["labelled"], known.get("weights"))  # type: ignore[arg-type]


def with_weight(equation: str, shape: tuple[int, ...]) -> list[Fact]:
    return einsum(equation, "x", "w", shapes=X, labelled=ON_LAST, weights={"w": shape})


def summed(facts: list[Fact]) -> list[tuple[int, tuple[int, ...], list[int]]]:
    return [(f.index, f.label.axes, f.label.atoms.tolist()) for f in facts if isinstance(f, Summed)]


@pytest.mark.parametrize("equation", ["bsc,cd->bsd", "...c,cd->...d", "b...c, cd -> b...d"])
def test_a_weight_is_summed_over_one_letter_and_makes_the_other(equation: str) -> None:
    facts = with_weight(equation, (4, 5))
    assert outs(facts) == {(2,): [100, 101, 102, 103, 104]}
    assert params(facts, 1) == {(0,): (FOUR, True), (1,): ([100, 101, 102, 103, 104], False)}
    assert fixed(facts) == []


def test_without_a_result_the_letters_are_in_alphabetical_order() -> None:
    assert outs(with_weight("bsc,cd", (4, 5))) == {(1,): [100, 101, 102, 103, 104]}


def test_a_layer_is_told_with_its_features_and_outputs_in_the_order_of_the_weight() -> None:
    layer = linear(with_weight("bsc,cd->bsd", (4, 5)))
    assert (layer.kind, layer.refit, layer.macs) == ("matmul", False, 2 * 3)
    assert layer.features.tolist() == [FOUR]
    assert layer.outputs.tolist() == [[100, 101, 102, 103, 104]]
    assert linear(with_weight("bsc,dc->bds", (5, 4))).kind == "left_matmul"


@pytest.mark.parametrize(("term", "shape"), [("dc", (5, 1)), ("cd", (1, 5)), ("d", (5,)), ("dce", (5, 1, 1))])
def test_a_weight_of_a_single_feature_is_told_by_its_own_order(term: str, shape: tuple[int, ...]) -> None:
    weights = {"w": np.arange(5, dtype=np.float32).reshape(shape)}
    layer = linear(einsum(f"bsc,{term}->bsd", "x", "w", shapes={"x": (2, 3, 1)}, labelled={}, weights=weights))
    assert to_matrix(layer, weights["w"]).tolist() == [[[0], [1], [2], [3], [4]]]


def test_a_weight_makes_heads_and_takes_them_back() -> None:
    made = with_weight("bsc,chd->bhsd", (4, 2, 3))
    assert outs(made) == {(1, 3): [[100, 101, 102], [103, 104, 105]]}
    assert params(made, 1)[1, 2] == ([[100, 101, 102], [103, 104, 105]], False)
    heads = {"x": {(1, 3): [[0, 1, 2], [3, 4, 5]]}}
    taken = einsum("bhsd,hdm->bsm", "x", "w", shapes={"x": (2, 2, 7, 3)}, labelled=heads, weights={"w": (2, 3, 5)})
    assert params(taken, 1)[0, 1] == ([[0, 1, 2], [3, 4, 5]], True)
    assert linear(taken).features.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_a_constant_along_a_passing_letter_is_sliced_and_passes_nothing_new() -> None:
    facts = with_weight("bsc,c->bsc", (4,))
    assert (outs(facts), params(facts, 1)) == ({(2,): FOUR}, {(0,): (FOUR, False)})


def test_what_two_activations_sum_over_is_tied_and_masked_on_one_side() -> None:
    labelled = {"x": {(2,): FOUR}, "z": {(1,): [4, 5, 6, 7], (2,): [20, 21]}}
    facts = einsum("bsc,bcd->bsd", "x", "z", shapes={**X, "z": (2, 4, 2)}, labelled=labelled)
    assert ties(facts) == [(FOUR, [4, 5, 6, 7])]
    assert outs(facts) == {(2,): [20, 21]}
    assert summed(facts) == [(0, (2,), FOUR)]
    assert [f.macs for f in facts if isinstance(f, Product)] == [2 * 3 * 4 * 2]


@pytest.mark.parametrize(
    ("equation", "labelled", "left"),
    [
        ("bsc->bs", ON_LAST, FOUR),
        ("bsc,bsc->bsc", ON_LAST, FOUR),
        ("bsc,bdc->bsd", ON_LAST, FOUR),
        ("bsc,bsc->bs", {**ON_LAST, "z": {(2,): [5, 6, 7, 8]}}, []),
    ],
)
def test_what_is_summed_alone_or_lies_on_a_tensor_without_channels_stays(
    equation: str, labelled: dict[str, dict[tuple[int, ...], list[int]]], left: list[int]
) -> None:
    operands = ("x", "z")[: equation.count(",") + 1]
    assert fixed(einsum(equation, *operands, shapes={**X, "z": (2, 3, 4)}, labelled=labelled)) == left


def test_a_diagonal_and_a_single_position_that_is_repeated_stay() -> None:
    square = einsum("bcc->bc", "x", shapes={"x": (2, 4, 4)}, labelled={"x": {(2,): FOUR}})
    assert (fixed(square), outs(square)) == (FOUR, {})
    one = {"x": {(2,): FOUR}, "z": {(2,): [9]}}
    assert fixed(einsum("bsc,bsc->bsc", "x", "z", shapes={**X, "z": (2, 3, 1)}, labelled=one)) == [9]


def sequence(body: str, weights: Weights) -> onnx.ModelProto:
    return model_from_text(
        "(float[N,7,5] x) => (float[N,7,3] y)", f"e = MatMul (x, e_w) {body} y = MatMul (o, y_w)", weights
    )


EMBED: Weights = {"e_w": (5, 12), "y_w": (12, 3)}
HEADS: Weights = {**EMBED, "q_w": (12, 3, 4), "k_w": (12, 3, 4), "v_w": (12, 3, 4), "o_w": (3, 4, 12)}
PROJECTED = 'q = Einsum <equation="bsm,mhd->bshd"> (e, q_w) '
ATTENTION = (
    PROJECTED + 'k = Einsum <equation="bsm,mhd->bshd"> (e, k_w) v = Einsum <equation="bsm,mhd->bshd"> (e, v_w) '
    's = Einsum <equation="bqhd,bkhd->bhqk"> (q, k) p = Softmax <axis=-1> (s) '
    'c = Einsum <equation="bhqk,bkhd->bqhd"> (p, v) r = Einsum <equation="bqhd,hdm->bqm"> (c, o_w) o = Add (r, e)'
)


def test_attention_loses_whole_heads_and_the_same_channels_of_every_head() -> None:
    case = analysed(sequence(ATTENTION, HEADS))
    assert case.widths() == {"MatMul:e": 12, "Einsum:q": 3, "Einsum:q#2": 4, "Einsum:v": 4}
    assert [x.node.name for x in case.group("Einsum:q").writers] == ["Einsum:q", "Einsum:k", "Einsum:v"]
    check_every_removal(case)


def test_one_key_for_all_heads_goes_along_with_the_channels_of_every_query() -> None:
    body = (
        PROJECTED + "k = MatMul (e, k_w) " + 's = Einsum <equation="bqhd,bkd->bhqk"> (q, k) p = Softmax <axis=-1> (s) '
    )
    body += 'c = Einsum <equation="bhqk,bkd->bqhd"> (p, k) o = Einsum <equation="bqhd,hdm->bqm"> (c, o_w)'
    case = analysed(sequence(body, {**HEADS, "k_w": (12, 4)}))
    assert sorted(case.widths().values()) == [3, 4, 12, 12]
    check_every_removal(case)


def test_a_weight_for_each_head_loses_heads_and_either_side() -> None:
    body = 'q = Einsum <equation="bsm,mhd->bhsd"> (e, q_w) g = Einsum <equation="bhsd,hde->bhse"> (q, g_w) '
    body += 'o = Einsum <equation="bhsd,hdm->bsm"> (g, o_w)'
    case = analysed(sequence(body, {**HEADS, "g_w": (3, 4, 4)}))
    assert sorted(case.widths().values()) == [3, 4, 4, 12, 12]
    check_every_removal(case)


def test_three_operands_share_their_letters() -> None:
    body = 'k = MatMul (e, k_w) s = Einsum <equation="bim,mn,bjn->bij"> (e, w, k) o = MatMul (s, o_w)'
    case = analysed(sequence(body, {**EMBED, "k_w": (12, 6), "w": (12, 6), "o_w": (7, 12)}))
    assert case.widths() == {"MatMul:e": 12, "MatMul:k": 6, "MatMul:o": 12}
    check_every_removal(case)
