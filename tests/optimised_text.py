"""Small transformers as exporters write them, in plain operators that onnxruntime's optimisers know how to fuse."""

import numpy as np
import onnx
from graph_text import Weights, integers, model_from_text

HIDDEN, HEADS, INNER, WORDS = 16, 4, 24, 20


def _layer_norm(x: str, to: str, p: str) -> str:
    return f"""{p}m = ReduceMean <axes=[-1]> ({x}) {p}d = Sub ({x}, {p}m) {p}p = Pow ({p}d, two)
        {p}v = ReduceMean <axes=[-1]> ({p}p) {p}e = Add ({p}v, epsilon) {p}s = Sqrt ({p}e) {p}n = Div ({p}d, {p}s)
        {p}g = Mul ({p}n, {p}_gamma) {to} = Add ({p}g, {p}_b)"""


def _rms_norm(x: str, to: str, p: str) -> str:
    return f"""{p}p = Pow ({x}, two) {p}v = ReduceMean <axes=[-1]> ({p}p) {p}e = Add ({p}v, epsilon)
        {p}s = Sqrt ({p}e) {p}i = Div (one, {p}s) {p}n = Mul ({x}, {p}i) {to} = Mul ({p}_gamma, {p}n)"""


def _attention(x: str, to: str) -> str:
    heads = " ".join(
        f"{n}0 = MatMul ({x}, {n}_w) {n}1 = Add ({n}_b, {n}0) {n}2 = Reshape ({n}1, split) "
        f"{n}3 = Transpose <perm=[0,2,{'3,1' if n == 'k' else '1,3'}]> ({n}2)"
        for n in "qkv"
    )
    return f"""{heads} a0 = MatMul (q3, k3) a1 = Div (a0, root) a2 = Add (a1, mask) a3 = Softmax <axis=-1> (a2)
        a4 = MatMul (a3, v3) a5 = Transpose <perm=[0,2,1,3]> (a4) a6 = Reshape (a5, join)
        o0 = MatMul (a6, o_w) {to} = Add (o_b, o0)"""


def _gelu(x: str, to: str) -> str:
    return f"""f0 = MatMul ({x}, f_w) f1 = Add (f_b, f0) f2 = Div (f1, rootwo) f3 = Erf (f2) f4 = Add (f3, one)
        f5 = Mul (f1, f4) f6 = Mul (f5, half) u0 = MatMul (f6, u_w) {to} = Add (u_b, u0)"""


EMBEDDED = "w0 = Gather (word, ids) w1 = Gather (place, places) w = Add (w0, w1)"
ENCODER = f"""{EMBEDDED} {_layer_norm("w", "x", "l0")}
    m1 = Unsqueeze (mask_in, one_axis) m2 = Unsqueeze (m1, two_axis) m3 = Cast <to=1> (m2) m4 = Sub (one, m3)
    mask = Mul (m4, low) {_attention("x", "at")} r = Add (at, x) {_layer_norm("r", "n", "l1")}
    {_gelu("n", "ff")} t = Add (ff, n) {_layer_norm("t", "z", "l2")} y = MatMul (z, y_w)"""
DECODER = f"""{EMBEDDED} {_rms_norm("w", "x", "l0")} {_attention("x", "at")} r = Add (at, w)
    {_rms_norm("r", "n", "l1")} {_gelu("n", "ff")} t = Add (ff, r) {_rms_norm("t", "z", "l2")} y = MatMul (z, y_w)"""


def _weights() -> Weights:
    float32 = np.float32
    found: Weights = {f"{name}_w": (HIDDEN, HIDDEN) for name in "qkvo"} | {f"{name}_b": (HIDDEN,) for name in "qkvo"}
    found |= {"f_w": (HIDDEN, INNER), "f_b": (INNER,), "u_w": (INNER, HIDDEN), "u_b": (HIDDEN,), "y_w": (HIDDEN, 3)}
    found |= {f"l{i}_{kind}": (HIDDEN,) for i in range(3) for kind in ("gamma", "b")}
    found |= {"word": (WORDS, HIDDEN), "place": (8, HIDDEN), "places": np.arange(8)[None]}
    found |= {"two": float32(2), "one": float32(1), "half": float32(0.5), "low": float32(-1e4)}
    found |= {"epsilon": float32(1e-5), "root": float32((HIDDEN / HEADS) ** 0.5), "rootwo": float32(2**0.5)}
    found |= {"split": integers(0, 0, HEADS, HIDDEN // HEADS), "join": integers(0, 0, HIDDEN)}
    return found | {"one_axis": integers(1), "two_axis": integers(2)}


def _model(signature: str, body: str, more: Weights) -> onnx.ModelProto:
    read = {word.strip(",()") for word in body.split()}
    return model_from_text(signature, body, {n: w for n, w in {**_weights(), **more}.items() if n in read})


def encoder() -> onnx.ModelProto:
    """A layer of BERT: attention under a mask, each sum normalised behind it."""
    return _model("(int64[N,8] ids, int64[N,8] mask_in) => (float[N,8,3] y)", ENCODER, {})


def decoder() -> onnx.ModelProto:
    """A layer of a causal language model: root-mean-square norms, each before what it feeds."""
    causal = np.triu(np.full((8, 8), -1e4, np.float32), 1)[None, None]
    return _model("(int64[N,8] ids) => (float[N,8,3] y)", DECODER, {"mask": causal})
