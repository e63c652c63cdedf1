"""Gather and its kin: what is picked, what is looked up, and what lies beside."""

import numpy as np
import onnx
import pytest
from graph_text import Weights, integers, model_from_text
from op_case import facts_of, fixed, indices, outs, params, ties
from removal import analysed, check_every_removal

FOUR = [0, 1, 2, 3]
TOKENS = {"x": (2, 7, 5)}
IDS = "i = ArgMax <axis=-1, keepdims=0> (x) "


def test_a_table_of_channels_picks_a_table_of_atoms() -> None:
    k = np.array([[3, 0], [-3, 2]])
    facts = facts_of("y = Gather <axis=1> (x, k)", {"x": (2, 4, 5)}, {"x": {(1,): FOUR}}, {"k": k})
    assert outs(facts) == {(1, 2): [[3, 0], [1, 2]]}
    assert indices(facts) == [FOUR]
    beside = facts_of("y = Gather <axis=1> (x, k)", {"x": (2, 4, 3)}, {"x": {(2,): [7, 8, 9]}}, {"k": k})
    assert outs(beside) == {(3,): [7, 8, 9]}


def test_an_embedding_makes_channels_and_never_loses_a_word() -> None:
    facts = facts_of(IDS + "y = Gather (w, i)", TOKENS, {}, {"w": (5, 3)})
    assert outs(facts) == {(2,): [100, 101, 102]}
    assert params(facts, 0) == {(1,): ([100, 101, 102], False)}


def test_an_embedding_of_heads_lies_on_both_axes() -> None:
    facts = facts_of(IDS + "y = Gather (w, i)", TOKENS, {}, {"w": (5, 2, 2)})
    assert outs(facts) == {(2, 3): [[100, 101], [102, 103]]}
    assert params(facts, 0) == {(1, 2): ([[100, 101], [102, 103]], False)}


def test_a_table_of_whole_numbers_holds_no_channels() -> None:
    assert outs(facts_of(IDS + "y = Gather (w, i)", TOKENS, {}, {"w": np.arange(10).reshape(5, 2)})) == {}


def test_channels_of_the_indices_pass() -> None:
    facts = facts_of(IDS + "y = Gather (w, i)", TOKENS, {"i": {(1,): list(range(7))}}, {"w": (5, 3)})
    assert outs(facts) == {(1,): list(range(7)), (2,): [100, 101, 102]}


def test_computed_indices_along_channels_fix_them() -> None:
    facts = facts_of(IDS + "y = Gather <axis=1> (z, i)", {**TOKENS, "z": (2, 4)}, {"z": {(1,): FOUR}})
    assert fixed(facts) == FOUR


def test_elements_tie_data_and_indices_beside_the_axis() -> None:
    labelled = {"x": {(1,): list(range(7))}, "i": {(1,): list(range(10, 17))}}
    text = "u, i = TopK <axis=-1> (z, k) y = GatherElements <axis=-1> (x, i)"
    facts = facts_of(text, {**TOKENS, "z": (2, 7, 9)}, labelled, {"k": integers(4)})
    assert ties(facts) == [(list(range(7)), list(range(10, 17)))]
    assert outs(facts) == {(1,): list(range(7))}


def test_indices_that_cover_a_part_of_the_channels_fix_them() -> None:
    i = np.zeros((2, 2, 5), np.int64)
    for op in ("GatherElements <axis=2> (x, i)", "ScatterElements <axis=2> (x, i, v)"):
        facts = facts_of(f"y = {op}", {"x": (2, 4, 5)}, {"x": {(1,): FOUR}}, {"i": i, "v": (2, 2, 5)})
        assert fixed(facts) == FOUR


def test_behind_the_indexed_axes_updates_lie_on_the_data() -> None:
    labelled = {"x": {(2,): FOUR, (1,): [7, 8, 9]}, "z": {(1,): [10, 11, 12, 13]}}
    k = np.array([[0, 1], [1, 2]])
    facts = facts_of("y = ScatterND (x, k, z)", {"x": (2, 3, 4), "z": (2, 4)}, labelled, {"k": k})
    assert (outs(facts), ties(facts), fixed(facts)) == ({(2,): FOUR}, [(FOUR, [10, 11, 12, 13])], [7, 8, 9])
    read = facts_of("y = GatherND (x, k)", {"x": (2, 3, 4)}, {"x": labelled["x"]}, {"k": k})
    assert (outs(read), fixed(read)) == ({(1,): FOUR}, [7, 8, 9])


def reader(body: str, weights: Weights, outputs: int = 3) -> onnx.ModelProto:
    return model_from_text(f"(float[N,7,5] x) => (float[N,7,{outputs}] y)", IDS + body, weights)


EMBEDDINGS: dict[str, tuple[str, Weights, int, dict[str, int]]] = {
    "words and positions": (
        "w = Gather (w_w, i) e = Add (w, p) h = MatMul (e, h_w) r = Relu (h) y = MatMul (r, y_w)",
        {"w_w": (5, 8), "p": (1, 7, 8), "h_w": (8, 6), "y_w": (6, 3)},
        3,
        {"w_w": 8, "MatMul:h": 6},
    ),
    "tied with the output": (
        "w = Gather (w_w, i) h = MatMul (w, h_w) r = Relu (h) f = Reshape (r, s) z = Gemm <transB=1> (f, w_w) "
        "y = Reshape (z, t)",
        {"w_w": (5, 8), "h_w": (8, 8), "s": integers(-1, 8), "t": integers(-1, 7, 5)},
        5,
        {"MatMul:h": 8},
    ),
    "heads": (
        "w = Gather (w_w, i) r = Reshape (w, s) y = MatMul (r, y_w)",
        {"w_w": (5, 2, 6), "s": integers(0, 0, 12), "y_w": (12, 3)},
        3,
        {"w_w": 2, "w_w#2": 6},
    ),
}


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_an_embedding_loses_channels_and_leaves_what_masking_leaves(name: str) -> None:
    body, weights, outputs, widths = EMBEDDINGS[name]
    case = analysed(reader(body, weights, outputs))
    assert case.widths() == widths
    check_every_removal(case)


def test_a_bias_of_relative_positions_loses_heads_with_the_scores() -> None:
    """A table of (positions, heads), looked up by computed indices and added to the scores of each head."""
    body = """
    e = MatMul (x, e_w) q = Reshape (e, s) a = Transpose <perm=[0,2,1,3]> (q) b = Transpose <perm=[0,2,3,1]> (q)
    m = MatMul (a, b) one = ReduceMax <keepdims=0> (i) far = Mul (one, zeros) near = Add (far, table)
    w = Gather (w_w, near) bias = Transpose <perm=[2,0,1]> (w) n = Add (m, bias) p = Softmax (n)
    c = MatMul (p, a) t = Transpose <perm=[0,2,1,3]> (c) o = Reshape (t, j) y = MatMul (o, y_w)
    """
    table = np.arange(7)[:, None] - np.arange(7)[None] + 6
    weights: Weights = {"e_w": (5, 12), "w_w": (13, 3), "y_w": (12, 3), "s": integers(0, 0, 3, 4), "table": table}
    weights |= {"j": integers(0, 0, 12), "zeros": np.zeros((7, 7), np.int64)}
    case = analysed(reader(body, weights))
    assert case.widths() == {"MatMul:e": 3, "MatMul:e#2": 4}
    assert "w_w" in case.group("MatMul:e").names
    check_every_removal(case)
