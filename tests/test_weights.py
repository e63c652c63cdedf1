"""Weights as matrices: rows are outputs, columns run over (input channel, tap); and back without a change."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from dense_mask import run
from graph_text import Weights, model_from_text
from sweep_case import im2col, net

from onnxprune.graph import array_of
from onnxprune.op_rules.facts import Linear
from onnxprune.weights import bias_behind, from_matrix, ints, to_matrix

CASES: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "conv": ("(float[N,4,5,5] x) => (float[N,B,C,D] y)", "Conv (x, w)", (6, 4, 3, 2)),
    "grouped": ("(float[N,4,5,5] x) => (float[N,B,C,D] y)", "Conv <group = 2> (x, w)", (6, 2, 3, 2)),
    "transposed": ("(float[N,4,5,5] x) => (float[N,B,C,D] y)", "ConvTranspose <strides = [2,2]> (x, w)", (4, 6, 3, 2)),
    "transposed-grouped": ("(float[N,4,5] x) => (float[N,B,C] y)", "ConvTranspose <group = 2> (x, w)", (4, 3, 3)),
    "gemm": ("(float[N,4] x) => (float[N,B] y)", "Gemm (x, w)", (4, 6)),
    "gemm-transposed": ("(float[N,4] x) => (float[N,B] y)", "Gemm <transB = 1> (x, w)", (6, 4)),
    "matmul": ("(float[N,3,4] x) => (float[N,B,C] y)", "MatMul (x, w)", (4, 6)),
}


def linear_of(case: str) -> Linear:
    signature, node, shape = CASES[case]
    shape_of_x = [int(d) if d != "N" else 2 for d in signature[7 : signature.index("]")].split(",")]
    x = np.random.default_rng(0).standard_normal(shape_of_x).astype(np.float32)
    (linear,) = net(signature, f"y = {node}", {"w": shape}, {"x": x}).analysis.linears
    return linear


@pytest.mark.parametrize("case", CASES)
def test_a_matrix_goes_back_to_the_weight_it_came_from(case: str) -> None:
    linear = linear_of(case)
    weight = array_of(linear.weight)
    matrix = to_matrix(linear, weight)
    assert matrix.shape == (linear.groups, linear.outputs.shape[1], linear.features.shape[1])
    np.testing.assert_array_equal(from_matrix(linear, matrix, weight.shape), weight)
    other = np.random.default_rng(1).standard_normal(matrix.shape)
    np.testing.assert_array_equal(to_matrix(linear, from_matrix(linear, other, weight.shape)), other)


@pytest.mark.parametrize("case", [name for name in CASES if name.startswith("conv") or name == "grouped"])
def test_the_columns_of_a_convolution_are_those_of_its_windows(case: str) -> None:
    signature, node, shape = CASES[case]
    x = np.random.default_rng(3).standard_normal((2, 4, 5, 5)).astype(np.float32)
    model = model_from_text(signature, f"y = {node}", {"w": shape})
    matrix = to_matrix(linear_of(case), np.asarray(net(signature, f"y = {node}", {"w": shape}, {"x": x}).layers[0]
                       .linear.weight.const_value.numpy()))  # fmt: skip
    rows = im2col(x, shape[2:], (1, 1), (0, 0, 0, 0), (1, 1)).reshape(-1, len(matrix), matrix.shape[2])
    made = np.einsum("pgf,gnf->pgn", rows, matrix).reshape(len(rows), -1)
    np.testing.assert_allclose(made, np.moveaxis(run(model, {"x": x})["y"], 1, -1).reshape(made.shape), atol=1e-5)


def test_a_dense_layers_rows_are_outputs_whichever_way_it_is_stored() -> None:
    weight = np.arange(24.0).reshape(4, 6)
    for case, given in (("gemm", weight), ("matmul", weight), ("gemm-transposed", weight.T)):
        np.testing.assert_array_equal(to_matrix(linear_of(case), given)[0], weight.T)


BEHIND: list[tuple[str, Weights, str | None]] = [
    ("p = MatMul (x, w) y = Add (p, b)", {"b": (6,)}, "b"),
    ("p = MatMul (x, w) y = Add (b, p)", {"b": (6,)}, "b"),
    ("p = MatMul (x, w) y = Add (p, b)", {"b": (1,)}, None),
    ("p = MatMul (x, w) y = Add (p, b)", {"b": (3, 6)}, None),
    ("p = MatMul (x, w) y = Sub (p, b)", {"b": (6,)}, None),
    ("p = MatMul (x, w) q = Neg (p) r = Add (p, b) y = Add (q, r)", {"b": (6,)}, None),
    ("p = MatMul (x, w) q = Add (p, b) y = Mul (q, b)", {"b": (6,)}, None),
    ("p = MatMul (x, w) q = Neg (p) y = Add (p, q)", {}, None),
]


@pytest.mark.parametrize(("body", "weights", "name"), BEHIND)
def test_only_a_vector_of_its_own_that_alone_reads_a_product_is_its_bias(
    body: str, weights: Weights, name: str | None
) -> None:
    import onnx_ir as ir

    model = ir.from_proto(model_from_text("(float[2,3,4] x) => (float[2,3,6] y)", body, {"w": (4, 6), **weights}))
    found = bias_behind(next(node for node in model.graph if node.op_type == "MatMul"))
    assert (found.name if found is not None else None) == name


def test_integer_attributes_have_defaults() -> None:
    node: Any = linear_of("transposed").node
    assert ints(node, "strides", [1, 1]) == [2, 2]
    assert ints(node, "dilations", [1, 1]) == [1, 1]


def test_a_slim_weight_stays_a_matrix_where_its_size_equals_a_wide_width() -> None:
    wide = ir.Value(name="w", const_value=ir.tensor(np.zeros((12, 6), np.float32)))
    x, node = ir.Value(name="x"), ir.node("MatMul", [ir.Value(name="a"), wide])
    linear = Linear(node, "matmul", x, wide, None, x, 1, np.arange(12)[None], np.arange(6)[None], 1)
    slim = np.arange(12, dtype=np.float32).reshape(2, 6)  # as many numbers as the wide weight has rows
    np.testing.assert_array_equal(to_matrix(linear, slim), slim.T[None])
