"""Fused attention between projections: which heads can go, why they stay, and that what is left is exact."""

from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from graph_text import Weights, integers, model_from_text
from removal import analysed, check_every_removal

from onnxprune.pipeline import compress

F32 = np.float32
RNG = np.random.default_rng(0)
MS = "com.microsoft."
PROJECTED = "q = MatMul (h, q_w) k = MatMul (h, k_w) v = MatMul (h, v_w)"
BIASED = "q0 = MatMul (h, q_w) k0 = MatMul (h, k_w) v0 = MatMul (h, v_w)"
ALL = {"MatMul:e": 10, "MatMul:q": 3}
CAUSAL = np.triu(np.full((7, 7), -1e4, F32), 1)


def noise(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(F32)


@dataclass(frozen=True)
class Block:
    """x → h (10 channels) → `nodes` from h to o → y; the heads of `heads` channels; keys and values may be shared."""

    nodes: str
    widths: dict[str, int]
    weights: Weights = field(default_factory=dict)
    heads: tuple[int, int, int] = (12, 12, 12)
    opset: int = 17
    inputs: str = ""
    outputs: str = ""
    batch: int = 2

    def model(self) -> onnx.ModelProto:
        body = f"e = MatMul (x, e_w) h = Tanh (e) {self.nodes} y = MatMul (o, o_w)"
        weights: Weights = {"e_w": (5, 10), "o_w": (self.heads[2] * self.heads[0] // self.heads[1], 3)}
        weights |= {f"{name}_w": (10, width) for name, width in zip("qkv", self.heads, strict=True)} | self.weights
        read = {word.strip(",()") for word in body.split()}
        weights = {name: weight for name, weight in weights.items() if name in read}
        signature = f"(float[{self.batch},7,5] x{self.inputs}) => (float[N,S,3] y{self.outputs})"
        return model_from_text(signature, body, weights, self.opset, ir=10)


def multi(more: str = "", inputs: str = "", results: str = "o") -> str:
    return f"{PROJECTED} {results} = {MS}MultiHeadAttention <num_heads=3{more}> (q, k, v{inputs})"


def packed(more: str = "", inputs: str = ", a_b", results: str = "o", num_heads: int = 3) -> str:
    return f"{results} = {MS}Attention <num_heads={num_heads}{more}> (h, a_w{inputs})"


def grouped(more: str = "", past: str = ",", inputs: str = "", results: str = "o") -> str:
    op = f"{MS}GroupQueryAttention <num_heads=6, kv_num_heads=3{more}>"
    return f"{PROJECTED} {results} = {op} (q, k, v, {past}, lengths, total{inputs})"


def split(op: str, names: str = "qkv") -> str:
    """Heads on an axis of their own, then `op` from q4, k4, v4 to o4, and the heads back in the last axis."""
    apart = " ".join(f"{n}5 = Reshape ({n}, {n}_s) {n}4 = Transpose <perm=[0,2,1,3]> ({n}5)" for n in names)
    return f"{PROJECTED} {apart} {op} o5 = Transpose <perm=[0,2,1,3]> (o4) o = Reshape (o5, back)"


PACKED: Weights = {"a_w": (10, 36), "a_b": (36,)}
GROUPED: Weights = {"lengths": np.array([6, 6], np.int32), "total": np.array([7], np.int32)}
WIDE = (48, 24, 24)
"""Six heads of queries, three of keys and values: the output is as wide as the queries."""
OPENED: Weights = {f"{n}_s": integers(0, 0, 3, -1) for n in "qkv"} | {"back": integers(0, 0, -1)}
SHARED: Weights = OPENED | {"q_s": integers(0, 0, 6, -1)}
CACHES: Weights = {"cos": np.cos(noise(9, 2)), "sin": np.sin(noise(9, 2)), "at": np.arange(14).reshape(2, 7) % 9}

BLOCKS = {
    "MultiHeadAttention": Block(multi(), ALL),
    "MultiHeadAttention with a bias": Block(multi(inputs=", b"), ALL, {"b": (36,)}),
    "MultiHeadAttention, causal, with a scale of its own": Block(multi(", unidirectional=1, scale=0.3"), ALL),
    "MultiHeadAttention with values of another size": Block(multi(), ALL, heads=(12, 12, 6)),
    "MultiHeadAttention with a padding mask": Block(
        multi(inputs=", , m"), ALL, {"m": np.array([[1] * 7, [1] * 4 + [0] * 3], np.int32)}
    ),
    "MultiHeadAttention with a bias a head": Block(multi(inputs=", , , m"), ALL, {"m": noise(1, 3, 7, 7)}),
    "MultiHeadAttention with one bias for all heads": Block(multi(inputs=", , , m"), ALL, {"m": CAUSAL[None, None]}),
    "MultiHeadAttention with a bias that is looked up": Block(
        f"t0 = Gather (table, at) t = Relu (t0) b3 = Transpose <perm=[2,0,1]> (t) m = Unsqueeze (b3, zero) "
        f"{multi(inputs=', , , m')}",
        ALL,
        {"table": noise(5, 3), "at": RNG.integers(0, 5, (7, 7)), "zero": integers(0)},
    ),
    "Attention": Block(packed(), {"MatMul:e": 10, "Attention:o": 3}, PACKED),
    "Attention, causal": Block(packed(", unidirectional=1"), {"MatMul:e": 10, "Attention:o": 3}, PACKED),
    "Attention with a mask": Block(
        packed(inputs=", a_b, m"), {"MatMul:e": 10, "Attention:o": 3}, {**PACKED, "m": np.array([7, 4], np.int32)}
    ),
    "Attention with a bias a head": Block(
        packed(inputs=", a_b, , , m"), {"MatMul:e": 10, "Attention:o": 3}, {**PACKED, "m": noise(1, 3, 7, 7)}
    ),
    "Attention with values of another size": Block(
        packed(", qkv_hidden_sizes=[12, 12, 6]"),
        {"MatMul:e": 10, "Attention:o": 3},
        {"a_w": (10, 30), "a_b": (30,)},
        heads=(12, 12, 6),
    ),
    "GroupQueryAttention": Block(grouped(), {"MatMul:e": 10, "MatMul:q": 3}, GROUPED, WIDE),
    "GroupQueryAttention, all its settings": Block(
        grouped(", do_rotary=1, softcap=5.0, scale=0.3", inputs=", cos4, sin4, , m, sinks"),
        {"MatMul:e": 10, "MatMul:q": 3},
        {
            **GROUPED,
            "cos4": np.cos(noise(9, 8)),
            "sin4": np.sin(noise(9, 8)),
            "m": noise(1, 6, 7, 7),
            "sinks": noise(6),
        },
        (96, 48, 48),
    ),
    "RotaryEmbedding of onnxruntime": Block(
        f"{PROJECTED} p = {MS}RotaryEmbedding (q, at, cos, sin) r = {MS}RotaryEmbedding (k, at, cos, sin) "
        f"o = {MS}MultiHeadAttention <num_heads=3> (p, r, v)",
        ALL,
        CACHES,
    ),
    "RotaryEmbedding of onnxruntime that turns half of each head": Block(
        f"{PROJECTED} p = {MS}RotaryEmbedding <num_heads=3, rotary_embedding_dim=2> (q, at, cos1, sin1) "
        f"o = {MS}MultiHeadAttention <num_heads=3> (p, k, v)",
        ALL,
        {"at": CACHES["at"], "cos1": np.cos(noise(9, 1)), "sin1": np.sin(noise(9, 1))},
    ),
    "ONNX's, three axes": Block(f"{PROJECTED} o = Attention <q_num_heads=3, kv_num_heads=3> (q, k, v)", ALL, opset=23),
    "ONNX's, three axes, shared keys, a mask a head": Block(
        f"{PROJECTED} o = Attention <q_num_heads=6, kv_num_heads=3, scale=0.3> (q, k, v, m)",
        ALL,
        {"m": noise(6, 7, 7)},
        WIDE,
        23,
    ),
    "ONNX's, three axes, one mask for all": Block(
        f"{PROJECTED} o = Attention <q_num_heads=3, kv_num_heads=3> (q, k, v, m)", ALL, {"m": CAUSAL}, opset=23
    ),
    "ONNX's, four axes": Block(split("o4 = Attention (q4, k4, v4)"), {**ALL, "MatMul:v": 4}, OPENED, opset=23),
    "ONNX's, four axes, with a scale": Block(
        split("o4 = Attention <scale=0.4> (q4, k4, v4)"), {**ALL, "MatMul:q#2": 4, "MatMul:v": 4}, OPENED, opset=23
    ),
    "ONNX's, four axes, shared keys, one mask for all": Block(
        split("o4 = Attention <scale=0.4, is_causal=1> (q4, k4, v4, m)"),
        {**ALL, "MatMul:q#2": 8, "MatMul:v": 8},
        {**SHARED, "m": noise(7, 7)},
        WIDE,
        23,
    ),
    "ONNX's, four axes, with rotary embeddings": Block(
        split(
            "p4 = RotaryEmbedding (q4, cos, sin, at) r4 = RotaryEmbedding (k4, cos, sin, at) "
            "o4 = Attention <scale=0.4> (p4, r4, v4)"
        ),
        {**ALL, "MatMul:v": 4},
        {**OPENED, **CACHES},
        opset=23,
    ),
    "ONNX's RotaryEmbedding, three axes": Block(
        f"{PROJECTED} p = RotaryEmbedding <num_heads=3> (q, cos, sin, at) "
        "o = Attention <q_num_heads=3, kv_num_heads=3> (p, k, v)",
        ALL,
        CACHES,
        opset=23,
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_fused_attention_loses_heads_and_leaves_what_masking_leaves(name: str) -> None:
    case = analysed(BLOCKS[name].model())
    assert case.widths() == BLOCKS[name].widths
    check_every_removal(case)


STATE = ", float[2,3,4,4] pk, float[2,3,4,4] pv"
CACHED = "reads the past 'pk', which has no prunable channels"
CLOSED = {
    "heads of a past": Block(
        multi(inputs=", , , , pk, pv", results="o, nk, nv"),
        {"MatMul:e": 10},
        inputs=STATE,
        outputs=", float[A,B,C,D] nk, float[E,F,G,H] nv",
    ),
    "heads of a past of shared keys": Block(
        grouped(past="pk, pv", results="o, nk, nv"),
        {"MatMul:e": 10},
        {"lengths": np.array([10], np.int32), "total": np.array([11], np.int32)},
        WIDE,
        inputs=", float[1,3,4,8] pk, float[1,3,4,8] pv",
        outputs=", float[A,B,C,D] nk, float[E,F,G,H] nv",
        batch=1,
    ),
    "heads of a past, ONNX's": Block(
        split("o4, nk, nv = Attention <scale=0.4> (q4, k4, v4, , pk, pv)"),
        {"MatMul:e": 10},
        OPENED,
        inputs=STATE,
        outputs=", float[A,B,C,D] nk, float[E,F,G,H] nv",
        opset=23,
    ),
    "heads of a past of one weight": Block(
        packed(inputs=", a_b, , p", results="o, n"),
        {"MatMul:e": 10},
        PACKED,
        inputs=", float[2,2,3,4,4] p",
        outputs=", float[A,B,C,D,E] n",
    ),
}
REASONS = {
    "heads of a past": f"MultiHeadAttention {CACHED}",
    "heads of a past of shared keys": f"GroupQueryAttention {CACHED}",
    "heads of a past, ONNX's": f"Attention {CACHED}",
    "heads of a past of one weight": "Attention reads the past 'p', which has no prunable channels",
}


@pytest.mark.parametrize("name", CLOSED)
def test_a_past_from_outside_keeps_its_heads(name: str) -> None:
    case = analysed(CLOSED[name].model(), batch=CLOSED[name].batch)
    assert case.widths() == CLOSED[name].widths
    assert REASONS[name] in case.reasons().values()
    check_every_removal(case)


def test_packed_queries_keys_and_values_stay_with_the_reason() -> None:
    op = f"{MS}GroupQueryAttention <num_heads=6, kv_num_heads=3>"
    nodes = f"a = MatMul (h, a_w) o = {op} (a, , , , , lengths, total)"
    case = analysed(Block(nodes, {}, {"a_w": (10, 96), **GROUPED}, WIDE).model())
    assert case.widths() == {"MatMul:e": 10}
    reason = "GroupQueryAttention reads queries, keys and values in one tensor, or of a past"
    assert case.reasons()["MatMul:a"] == reason
    check_every_removal(case)


@pytest.mark.parametrize("method", ["magnitude", "obs", "lasso"])
@pytest.mark.parametrize("name", ["Attention", "MultiHeadAttention with a bias", "GroupQueryAttention"])
def test_a_run_takes_a_head_and_writes_how_many_are_left(name: str, method: str) -> None:
    result = compress(BLOCKS[name].model(), method=method, ratio=0.4, samples=8, align=1, measure=False)
    counts = {a.name: a.i for node in result.model.graph.node for a in node.attribute if a.name.endswith("num_heads")}
    assert counts["num_heads"] == (4 if name == "GroupQueryAttention" else 2)
    assert result.report.proof < 1e-5
