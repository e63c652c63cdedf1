"""X Wᵀ + b from the rows that `read` takes equals what onnxruntime writes at those positions."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from dense_mask import run

from onnxprune.calibration.rows import position_count, read, spread, written
from onnxprune.dependency import analyse
from onnxprune.op_rules.facts import Linear
from onnxprune.trace import trace
from onnxprune.weights import from_matrix, to_matrix

Attributes = dict[str, Any]
CONV: list[tuple[tuple[int, ...], tuple[int, ...], Attributes]] = [
    ((2, 4, 9), (6, 4, 3), {}),
    ((2, 4, 9), (6, 4, 3), {"strides": [2], "pads": [1, 0]}),
    ((2, 4, 11), (6, 4, 3), {"dilations": [3], "pads": [0, 4]}),
    ((3, 4, 7, 8), (6, 4, 3, 2), {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
    ((2, 4, 9, 9), (6, 4, 3, 3), {"pads": [2, 2, 2, 2], "dilations": [2, 2], "strides": [1, 2]}),
    ((2, 4, 6, 6), (6, 4, 1, 1), {}),
    ((2, 4, 7, 6), (6, 4, 1, 1), {"strides": [2, 3]}),
    ((2, 4, 5, 5), (6, 4, 1, 1), {"pads": [1, 0, 0, 1]}),
    ((2, 4, 7, 8), (6, 4, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ((2, 4, 7, 8), (6, 4, 4, 2), {"auto_pad": "SAME_LOWER", "strides": [1, 3]}),
    ((2, 4, 8, 8), (6, 4, 2, 2), {"auto_pad": "SAME_LOWER"}),
    ((2, 4, 6, 6), (6, 4, 1, 1), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ((2, 4, 7, 8), (6, 4, 3, 3), {"auto_pad": "VALID", "strides": [2, 2]}),
    ((2, 4, 7, 8), (6, 2, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    ((2, 4, 7, 8), (8, 1, 3, 3), {"group": 4, "pads": [1, 1, 1, 1]}),
    ((2, 4, 5, 6, 4), (6, 4, 3, 2, 3), {"pads": [1, 0, 1, 1, 1, 0], "strides": [1, 2, 1]}),
    ((2, 4, 5, 6, 7), (6, 2, 3, 2, 3), {"group": 2, "dilations": [1, 2, 2]}),
    ((1, 4, 3, 3), (6, 4, 3, 3), {}),
]
TRANSPOSED: list[tuple[tuple[int, ...], tuple[int, ...], Attributes]] = [
    ((2, 4, 5), (4, 6, 3), {}),
    ((2, 4, 5), (4, 6, 3), {"strides": [2], "pads": [1, 0], "output_padding": [1]}),
    ((2, 4, 5, 6), (4, 6, 2, 2), {"strides": [2, 2]}),
    ((2, 4, 5, 6), (4, 6, 3, 4), {"strides": [2, 3], "pads": [1, 0, 2, 1]}),
    ((2, 4, 5, 6), (4, 6, 3, 3), {"strides": [2, 2], "dilations": [2, 3], "output_padding": [1, 0]}),
    ((2, 4, 5, 6), (4, 3, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    ((2, 4, 5, 6), (4, 2, 3, 3), {"group": 4, "strides": [2, 1]}),
    ((2, 4, 5, 6), (4, 6, 3, 3), {"strides": [2, 2], "output_shape": [10, 12]}),
    ((2, 4, 5, 6), (4, 6, 3, 3), {"strides": [2, 2], "output_shape": [10, 12], "auto_pad": "SAME_UPPER"}),
    ((2, 4, 5, 6), (4, 6, 3, 3), {"strides": [2, 2], "output_shape": [10, 12], "auto_pad": "SAME_LOWER"}),
    ((2, 4, 5, 6), (4, 6, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ((2, 4, 5, 6), (4, 6, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    ((2, 4, 5, 6), (4, 6, 3, 3), {"strides": [2, 2], "auto_pad": "VALID"}),
    ((2, 4, 5, 6), (4, 6, 2, 2), {"strides": [3, 3]}),
    ((2, 4, 5, 6), (4, 6, 1, 1), {"strides": [2, 2]}),
    ((2, 4, 5, 6), (4, 6, 3, 3), {"pads": [2, 2, 2, 2]}),
    ((2, 4, 6, 6), (4, 6, 1, 1), {"pads": [1, 1, 1, 1]}),
    ((2, 4, 3, 4, 3), (4, 6, 2, 3, 2), {"strides": [2, 1, 2], "pads": [0, 1, 0, 1, 1, 0]}),
    ((2, 4, 5, 6), (4, 6, 2, 2), {"strides": [2, 2], "output_shape": [11, 13]}),
]
DENSE: list[tuple[str, tuple[int, ...], tuple[int, ...], Attributes]] = [
    ("Gemm", (5, 4), (4, 6), {}),
    ("Gemm", (5, 4), (6, 4), {"transB": 1}),
    ("MatMul", (5, 4), (4, 6), {}),
    ("MatMul", (2, 3, 4), (4, 6), {}),
    ("MatMul", (2, 3, 5, 4), (4, 6), {}),
]


def layer(
    kind: str, shape: tuple[int, ...], kernel: tuple[int, ...], attributes: Attributes
) -> tuple[Linear, Any, Any]:
    """The layer as the rules describe it, an input, and what onnxruntime makes of it."""
    rng = np.random.default_rng(sum(shape) + sum(kernel))
    weight = rng.standard_normal(kernel).astype(np.float32)
    outputs = kernel[1] * attributes.get("group", 1) if kind == "ConvTranspose" else kernel[0]
    outputs = outputs if kind.startswith("Conv") or attributes.get("transB") else kernel[1]
    bias = rng.standard_normal(outputs).astype(np.float32)
    inputs = ["x", "w"] if kind == "MatMul" else ["x", "w", "b"]
    node = onnx.helper.make_node(kind, inputs, ["y"], "layer", **attributes)
    values = [onnx.numpy_helper.from_array(a, n) for a, n in ((weight, "w"), (bias, "b")) if n in inputs]
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    opset = [onnx.helper.make_opsetid("", 17)]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", [x], [y], values), opset_imports=opset, ir_version=8
    )
    feeds = {"x": rng.standard_normal(shape).astype(np.float32)}
    model = ir.from_proto(proto)
    (linear,) = analyse(model, trace(model, feeds)).linears
    return linear, feeds["x"], run(proto, feeds)["y"]


def difference(kind: str, shape: tuple[int, ...], kernel: tuple[int, ...], attributes: Attributes) -> float:
    """The largest one between rows times weight and what onnxruntime gives there, at all positions and at some."""
    linear, x, y = layer(kind, shape, kernel, attributes)
    total = position_count(linear, shape)
    assert total == y.size // linear.outputs.size
    found = [0.0]
    for where in (np.arange(total), np.random.default_rng(0).permutation(total)[: total // 2 + 1]):
        rows = read(linear, x, where)
        assert linear.weight.const_value is not None
        matrix = to_matrix(linear, linear.weight.const_value.numpy())
        assert rows.shape == (linear.groups, len(where), matrix.shape[2])
        product = np.concatenate([r @ m.T for r, m in zip(rows, matrix, strict=True)], axis=1)
        bias = linear.bias.const_value.numpy() if linear.bias is not None and linear.bias.const_value else 0
        expected = written(linear, y, where)
        assert product.shape == expected.shape
        found.append(float(np.abs(product + bias - expected).max(initial=0)))
    return float(np.max(found))  # NaN stays NaN


@pytest.mark.parametrize(("shape", "kernel", "attributes"), CONV)
def test_the_rows_of_a_convolution_make_its_output(
    shape: tuple[int, ...], kernel: tuple[int, ...], attributes: Attributes
) -> None:
    assert difference("Conv", shape, kernel, attributes) < 2e-5


@pytest.mark.parametrize(("shape", "kernel", "attributes"), TRANSPOSED)
def test_the_rows_of_a_transposed_convolution_make_its_output(
    shape: tuple[int, ...], kernel: tuple[int, ...], attributes: Attributes
) -> None:
    assert difference("ConvTranspose", shape, kernel, attributes) < 2e-5


@pytest.mark.parametrize(("kind", "shape", "kernel", "attributes"), DENSE)
def test_the_rows_of_a_dense_layer_make_its_output(
    kind: str, shape: tuple[int, ...], kernel: tuple[int, ...], attributes: Attributes
) -> None:
    assert difference(kind, shape, kernel, attributes) < 2e-5


@pytest.mark.parametrize(
    ("kind", "case"),
    [("Conv", CONV[4]), ("Conv", CONV[13]), ("ConvTranspose", TRANSPOSED[4]), ("ConvTranspose", TRANSPOSED[5])],
)
def test_a_weight_survives_the_way_to_a_matrix_and_back(kind: str, case: Any) -> None:
    linear, _, _ = layer(kind, *case)
    assert linear.weight.const_value is not None
    weight = linear.weight.const_value.numpy()
    np.testing.assert_array_equal(from_matrix(linear, to_matrix(linear, weight), weight.shape), weight)


def test_positions_are_all_where_few_and_else_evenly_spread() -> None:
    assert spread(5, 8, seed=0).tolist() == [0, 1, 2, 3, 4]
    where = spread(1000, 100, seed=1)
    assert where.size == 100
    assert (where // 10).tolist() == list(range(100))
    assert len(set((where % 10).tolist())) > 1
    assert spread(1000, 100, seed=1).tolist() == where.tolist()
