"""Products of matrices between layers: stacks of constant matrices, turned operands, tables of angles."""

from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from graph_text import Weights, integers, model_from_text
from op_case import facts_of, fixed, linear, outs, params
from removal import analysed, check_every_removal

F32 = np.float32
FUSED = "com.microsoft.FusedMatMul"
SPLIT: Weights = {"split": integers(0, 0, 2, 5), "joined": integers(0, 0, -1), "one": integers(1)}
APART = "r = Reshape (h, split) a = Transpose <perm=[0,2,1,3]> (r)"
BACK = "b = Transpose <perm=[0,2,1,3]> (p) o = Reshape (b, joined)"
TURNED = "t = Transpose <perm=[0,2,1]> (h)"
PROJECTED = "q0 = MatMul (h, q_w) k0 = MatMul (h, k_w) v0 = MatMul (h, v_w)"
HEADS = PROJECTED + "".join(f" {n}1 = Reshape ({n}0, split) {n} = Transpose <perm=[0,2,1,3]> ({n}1)" for n in "qkv")
QKV: Weights = {"q_w": (10, 10), "k_w": (10, 10), "v_w": (10, 10)}


@dataclass(frozen=True)
class Between:
    """x → h (2, 7, 10) → `nodes` from h to o (2, 7, outer) → y."""

    nodes: str
    widths: dict[str, int]
    weights: Weights = field(default_factory=dict)
    outer: int = 6

    def model(self) -> onnx.ModelProto:
        body = f"e = MatMul (x, e_w) h = Tanh (e) {self.nodes} y = MatMul (o, o_w)"
        weights: Weights = {"e_w": (5, 10), "o_w": (self.outer, 3), **SPLIT, **self.weights}
        read = {word.strip(",()") for word in body.split()}
        weights = {name: weight for name, weight in weights.items() if name in read}
        return model_from_text("(float[2,7,5] x) => (float[2,7,3] y)", body, weights)


NETWORKS = {
    "turned weight": Between(
        f"o = {FUSED} <alpha=0.5, transB=1> (h, f_w)", {"MatMul:e": 10, "FusedMatMul:o": 6}, {"f_w": (6, 10)}
    ),
    "weight on the left": Between(
        f"{TURNED} p = {FUSED} <alpha=0.5> (f_w, t) o = Transpose <perm=[0,2,1]> (p)",
        {"MatMul:e": 10, "FusedMatMul:p": 6},
        {"f_w": (6, 10)},
    ),
    "turned weight on the left, turned activation": Between(
        f"p = {FUSED} <transA=1, transB=1> (f_w, h) o = Transpose <perm=[0,2,1]> (p)",
        {"MatMul:e": 10, "f_w": 6},
        {"f_w": (10, 6)},
    ),
    "turned activation": Between(
        f"{TURNED} o = {FUSED} <transA=1> (t, f_w)", {"MatMul:e": 10, "f_w": 6}, {"f_w": (10, 6)}
    ),
    "TransposeMatMul": Between(
        "o = com.microsoft.TransposeMatMul <transB=1> (h, f_w)",
        {"MatMul:e": 10, "TransposeMatMul:o": 6},
        {"f_w": (6, 10)},
    ),
    "scores of turned keys": Between(
        f"{HEADS} s = {FUSED} <alpha=0.4, transB=1> (q, k) w = Softmax <axis=-1> (s) p = MatMul (w, v) {BACK}",
        {"MatMul:e": 10, "MatMul:q0": 2, "MatMul:q0#2": 5, "MatMul:v0": 5},
        QKV,
        10,
    ),
    "a stack of one": Between("o = MatMul (h, s_w)", {"MatMul:e": 10, "s_w": 6}, {"s_w": (1, 10, 6)}),
    "a stack, one for each head": Between(
        f"{APART} p = MatMul (a, s_w) {BACK}",
        {"MatMul:e": 2, "MatMul:e#2": 5, "s_w": 6},
        {"s_w": (2, 5, 6)},
        12,
    ),
    "a stack of stacks": Between(
        f"{APART} p = MatMul (a, s_w) {BACK}",
        {"MatMul:e": 2, "MatMul:e#2": 5, "s_w": 6},
        {"s_w": (1, 2, 5, 6)},
        12,
    ),
    "one matrix for all heads, whose columns meet the heads in one axis": Between(
        f"{APART} p = MatMul (a, s_w) {BACK}", {"MatMul:e": 5, "s_w": 6}, {"s_w": (5, 6)}, 12
    ),
    "a stack that makes heads": Between(
        f"a = Unsqueeze (h, one) p = MatMul (a, s_w) {BACK}",
        {"MatMul:e": 10, "s_w": 3, "s_w#2": 4},
        {"s_w": (3, 10, 4)},
        12,
    ),
    "a stack on the left": Between(
        f"{TURNED} a = Unsqueeze (t, one) p1 = MatMul (s_w, a) p = Transpose <perm=[0,1,3,2]> (p1) {BACK}",
        {"MatMul:e": 10, "s_w": 3, "s_w#2": 4},
        {"s_w": (3, 4, 10)},
        12,
    ),
    "a stack by rows of heads, whose columns are positions": Between(
        f"r = Reshape (h, split) a = Transpose <perm=[0,2,3,1]> (r) m = MatMul (a, s_w) t = Relu (m) "
        f"n = MatMul (t, u_w) p = Transpose <perm=[0,1,3,2]> (n) {BACK}",
        {"s_w": 4},
        {"s_w": (2, 7, 4), "u_w": (2, 4, 7)},
        10,
    ),
    "a stack along the batch": Between("o = MatMul (h, s_w)", {"MatMul:e": 10, "s_w": 6}, {"s_w": (2, 10, 6)}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_product_of_matrices_leaves_what_masking_leaves(name: str) -> None:
    case = analysed(NETWORKS[name].model())
    assert case.widths() == NETWORKS[name].widths
    check_every_removal(case)


def test_a_turned_weight_is_a_layer_that_is_not_solved_again() -> None:
    node = f"y = {FUSED} <alpha=0.5, transB=1> (x, f_w)"
    found = facts_of(node, {"x": (2, 3, 4)}, {"x": {(2,): range(4)}}, {"f_w": (5, 4)})
    fresh = list(range(100, 105))
    assert params(found, 1) == {(0,): (fresh, False), (1,): ([0, 1, 2, 3], True)}
    assert outs(found) == {(2,): fresh}
    layer = linear(found)
    assert (layer.kind, layer.refit, layer.macs, layer.features.tolist()) == ("gemm", False, 6, [[0, 1, 2, 3]])


def test_turned_batch_axes_and_vectors_keep_their_channels() -> None:
    shapes = {"x": (3, 2, 4), "z": (2, 4, 5)}
    labels = {"x": {(2,): range(4)}, "z": {(1,): range(4, 8)}}
    assert fixed(facts_of(f"y = {FUSED} <transBatchA=1> (x, z)", shapes, labels)) == list(range(8))
    assert fixed(facts_of("y = MatMul (x, v)", {"x": (3, 2, 4)}, {"x": {(2,): range(4)}}, {"v": (4,)})) == [0, 1, 2, 3]


def turned(name: str) -> str:
    """Query or key heads turned by the angles of their positions, the halves of each head together."""
    return f"""{name}a = Slice ({name}, i0, i2, i3) {name}b = Slice ({name}, i2, last, i3) {name}n = Neg ({name}b)
        {name}h = Concat <axis=-1> ({name}n, {name}a) {name}c = Mul ({name}, c) {name}s = Mul ({name}h, s)
        {name}t = Add ({name}c, {name}s)"""


ANGLES = """f = MatMul (inv_w, at) g = Transpose <perm=[0,2,1]> (f) d = Concat <axis=-1> (g, g)
    c0 = Cos (d) s0 = Sin (d) c = Unsqueeze (c0, one) s = Unsqueeze (s0, one)"""
REPEATED = """{n}r = Unsqueeze ({source}, two) {n}e = Expand ({n}r, wide) {n}g = Reshape ({n}e, flat)"""
ROTARY: Weights = {"i0": integers(0), "i2": integers(2), "i3": integers(3), "last": integers(2**62), "inv_w": (1, 2, 1)}


@pytest.mark.parametrize("shared", [1, 2])
def test_queries_and_keys_with_rotary_embeddings_lose_heads_and_pairs_of_channels(shared: int) -> None:
    """Each half of a head reads the same table of angles, so a channel goes with its like in the other half."""
    apart = " ".join(f"{n}1 = Reshape ({n}0, {n}_s) {n} = Transpose <perm=[0,2,1,3]> ({n}1)" for n in "qkv")
    keys, values = ("kt", "v") if shared == 1 else ("kg", "vg")
    repeats = "" if shared == 1 else " ".join(REPEATED.format(n=n, source=x) for n, x in (("k", "kt"), ("v", "v")))
    body = f"""e = MatMul (x, e_w) h = Tanh (e) {PROJECTED} {apart} {ANGLES} {turned("q")} {turned("k")} {repeats}
        m = Transpose <perm=[0,1,3,2]> ({keys}) w = MatMul (qt, m) z = Mul (w, scale) a = Softmax <axis=-1> (z)
        p = MatMul (a, {values}) {BACK} y = MatMul (o, o_w)"""
    weights: Weights = {"e_w": (5, 10), "o_w": (16, 3), "q_w": (10, 16), "scale": F32(0.5), **SPLIT, **ROTARY}
    weights |= {f"{n}_w": (10, 16 // shared) for n in "kv"} | {f"{n}_s": integers(0, 0, -1, 4) for n in "qkv"}
    weights |= {"two": integers(2), "wide": integers(1, 1, shared, 1, 1), "flat": integers(0, 4, 7, 4)}
    read = {word.strip(",()") for word in body.split()}
    weights = {name: weight for name, weight in weights.items() if name in read}
    case = analysed(model_from_text("(float[2,7,5] x, float[2,1,7] at) => (float[2,7,3] y)", body, weights))
    assert case.widths() == {"MatMul:e": 10, "MatMul:q0": 4 // shared, "MatMul:q0#2": 2, "MatMul:v0": 4}
    check_every_removal(case)
