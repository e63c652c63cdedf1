"""Every layer to be refitted gets a bias, and the function stays the same."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from dense_mask import run
from graph_text import Weights, model_from_text
from topologies import feeds

from onnxprune.model_io import load
from onnxprune.passes.add_bias import add_bias, bias_behind
from onnxprune.passes.normalise import normalise


def biased(model: onnx.ModelProto, *names: str) -> ir.Model:
    after = add_bias(normalise(load(model).model), names)
    inputs = feeds(model)
    expected, found = run(model, inputs), run(ir.to_proto(after), inputs)
    assert expected.keys() == found.keys()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6)
    return after


@pytest.mark.parametrize(
    ("layer", "shape", "kernel", "outputs"),
    [
        ("Conv <group=2>", "N,4,5,5", (6, 2, 3, 3), 6),
        ("ConvTranspose <group=2>", "N,4,5,5", (4, 3, 2, 2), 6),
        ("Gemm", "N,4", (4, 7), 7),
        ("Gemm <transB=1>", "N,4", (7, 4), 7),
    ],
)
def test_a_layer_gets_a_zero_for_each_output(layer: str, shape: str, kernel: tuple[int, ...], outputs: int) -> None:
    dims = ",".join("ABCD"[: shape.count(",") + 1])
    model = model_from_text(f"(float[{shape}] x) => (float[{dims}] y)", f"y = {layer} (x, w)", {"w": kernel})
    after = biased(model, f"{layer.split()[0]}:y")
    bias = next(iter(after.graph)).inputs[2]
    assert bias is not None and bias.const_value is not None
    assert bias.const_value.numpy().tolist() == [0.0] * outputs
    assert bias.name == "w.bias"


def matmul(body: str, weights: Weights | None = None, outputs: str = "float[N,5,7] y") -> onnx.ModelProto:
    known: Weights = {"w": (4, 7)}
    return model_from_text(f"(float[N,5,4] x) => ({outputs})", body, known | (weights or {}))


def test_a_matmul_gets_an_add_behind_it_and_its_readers_read_that() -> None:
    after = biased(matmul("m = MatMul (x, w) y = Relu (m)"), "MatMul:m")
    assert [node.op_type for node in after.graph] == ["MatMul", "Add", "Relu"]
    first = next(iter(after.graph))
    bias = bias_behind(first)
    assert bias is not None and bias.const_value is not None and bias.const_value.shape == (7,)


def test_a_matmul_that_is_an_output_leaves_its_name_to_the_sum() -> None:
    after = biased(matmul("y = MatMul (x, w)"), "MatMul:y")
    assert [value.name for value in after.graph.outputs] == ["y"]
    assert [node.op_type for node in after.graph] == ["MatMul", "Add"]
    both = biased(matmul("y = MatMul (x, w) z = Relu (y)", outputs="float[N,5,7] y, float[N,5,7] z"), "MatMul:y")
    assert [value.name for value in both.graph.outputs] == ["y", "z"]


@pytest.mark.parametrize("body", ["m = MatMul (x, w) y = Add (m, b)", "m = MatMul (x, w) y = Add (b, m)"])
def test_a_matmul_with_a_bias_behind_it_is_left_alone(body: str) -> None:
    after = biased(matmul(body, {"b": (7,)}), "MatMul:m")
    assert [node.op_type for node in after.graph] == ["MatMul", "Add"]


def test_a_shared_addend_becomes_a_bias_of_its_own_and_a_scalar_is_none() -> None:
    shared = matmul("m = MatMul (x, w) a = Add (m, b) y = Mul (a, b)", {"b": (7,)})
    assert len(list(biased(shared, "MatMul:m").graph)) == 3
    assert len(list(biased(matmul("m = MatMul (x, w) y = Add (m, b)", {"b": (1,)}), "MatMul:m").graph)) == 3


def test_only_the_named_layers_change() -> None:
    after = biased(matmul("m = MatMul (x, w) y = Relu (m)"), "MatMul:other")
    assert len(list(after.graph)) == 2


def test_two_layers_that_share_a_weight_get_biases_of_their_own() -> None:
    body = "a = Conv (x, w) b = Conv (a, w) y = Relu (b)"
    model = model_from_text("(float[N,4,5,5] x) => (float[N,4,5,5] y)", body, {"w": (4, 4, 1, 1)})
    after = biased(model, "Conv:a", "Conv:b")
    names = [node.inputs[2].name for node in after.graph if node.op_type == "Conv" and node.inputs[2] is not None]
    assert len(set(names)) == 2
