"""`inspect --why`: what lies at a node, what it is tied to, and what keeps it."""

import pytest
from graph_text import Weights, integers, model_from_text
from removal import analysed

import onnxprune
from onnxprune.explain import explain

WEIGHTS: Weights = {"q_w": (5, 8), "k_w": (5, 8), "v_w": (5, 8), "o_w": (8, 6), "y_w": (6, 2), "g": (6,), "b": (6,)}
WEIGHTS |= {"heads": integers(0, 0, 2, 4), "joined": integers(0, 0, 8)}
BODY = """
    q = MatMul (x, q_w) k = MatMul (x, k_w) v = MatMul (x, v_w)
    q4 = Reshape (q, heads) k4 = Reshape (k, heads) v4 = Reshape (v, heads)
    qt = Transpose <perm=[0,2,1,3]> (q4) kt = Transpose <perm=[0,2,3,1]> (k4) vt = Transpose <perm=[0,2,1,3]> (v4)
    s = MatMul (qt, kt) p = Softmax <axis=-1> (s) c = MatMul (p, vt) t = Transpose <perm=[0,2,1,3]> (c)
    f = Reshape (t, joined) o = MatMul (f, o_w) n = LayerNormalization (o, g, b) y = MatMul (n, y_w)
"""
MODEL = model_from_text("(float[N,7,5] x) => (float[N,7,2] y)", BODY, WEIGHTS)
HEADS = "can go with group 'MatMul:q', in 2 blocks (made by MatMul:q, MatMul:k, MatMul:v; read by MatMul:o)"


def test_the_groups_that_meet_at_a_node_are_told_with_who_makes_and_reads_them() -> None:
    said = explain(analysed(MODEL).analysis, "MatMul:c")
    assert said[0] == "MatMul:c is a MatMul"
    assert f"it reads 'p': 2 positions of axis 1, 2 of them {HEADS}" in said
    assert f"it makes 'c': 8 positions of axis 1 and 3, 8 of them {HEADS}" in said
    columns = "in 4 blocks (made by MatMul:v; read by MatMul:o)"
    assert any(s.startswith("it makes 'c'") and s.endswith(columns) for s in said)


def test_what_stays_is_told_with_its_reason() -> None:
    said = explain(analysed(MODEL).analysis, "o")  # the tensor's name serves as well
    norm = "LayerNormalization takes its mean and variance over it (--open normalised lets it go)"
    assert f"it makes 'o': 6 positions of axis 2, 6 of them stay: {norm}" in said
    assert "it reads 'x': no prunable channels" in explain(analysed(MODEL).analysis, "MatMul:q")


def test_inspect_answers_for_each_name_and_refuses_one_that_is_not_there() -> None:
    assert onnxprune.inspect(MODEL).why == ()
    assert onnxprune.inspect(MODEL, why=["MatMul:c"]).why == explain(analysed(MODEL).analysis, "MatMul:c")
    with pytest.raises(onnxprune.BadInput, match="--why 'nobody'"):
        onnxprune.inspect(MODEL, why=["nobody"])
