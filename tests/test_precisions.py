"""Models in float16, double, bfloat16, and in two of them at once: pruned in their own type, or refused clearly."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from graph_text import Weights, model_from_text
from model_counts import constants
from onnx import TensorProto
from pipeline_case import pictures, prune
from topologies import TOPOLOGIES

from onnxprune.errors import BadInput

PERCEPTRON = """
    h0 = MatMul (x, a_w)
    h1 = Add (h0, a_b)
    h2 = Relu (h1)
    g = Gemm <transB=1> (h2, c_w, c_b)
    n = Tanh (g)
    y = MatMul (n, d_w)
"""
WEIGHTS: Weights = {"a_w": (12, 16), "a_b": (16,), "c_w": (14, 16), "c_b": (14,), "d_w": (14, 5)}


def perceptron() -> onnx.ModelProto:
    return model_from_text("(float[N,12] x) => (float[N,5] y)", PERCEPTRON, WEIGHTS)


def rows(dtype: type) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((96, 12)).astype(dtype)


def in_type(model: onnx.ModelProto, to: int) -> onnx.ModelProto:
    """The whole model in another type."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(to)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(tensor).astype(dtype)
            tensor.CopyFrom(onnx.helper.make_tensor(tensor.name, to, array.shape, array.tobytes(), raw=True))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = to
    del model.graph.value_info[:]
    return model


def island(model: onnx.ModelProto) -> onnx.ModelProto:
    """float in and out, float16 between two Casts."""
    model = in_type(model, TensorProto.FLOAT16)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in model.graph.node:
        node.input[:] = ["x16" if name == "x" else name for name in node.input]
        node.output[:] = ["y16" if name == "y" else name for name in node.output]
    model.graph.node.insert(0, onnx.helper.make_node("Cast", ["x"], ["x16"], to=TensorProto.FLOAT16))
    model.graph.node.append(onnx.helper.make_node("Cast", ["y16"], ["y"], to=TensorProto.FLOAT))
    return model


def types(model: onnx.ModelProto) -> set[str]:
    return {str(array.dtype) for array in constants(model).values()}


OPTIONS = [{"method": "magnitude", "rebuild": "none"}, {}]


@pytest.mark.parametrize("options", OPTIONS, ids=["magnitude", "default"])
@pytest.mark.parametrize("to", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_a_perceptron_is_pruned_in_its_own_type(to: int, options: dict) -> None:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(to)
    result = prune(in_type(perceptron(), to), rows(dtype), **options)
    assert types(result.model) == {str(dtype)}
    assert result.plan.groups
    assert result.report.proof <= (1e-10 if to == TensorProto.DOUBLE else 5e-3)


@pytest.mark.parametrize("options", OPTIONS, ids=["magnitude", "default"])
def test_a_convolutional_network_is_pruned_in_half_precision(options: dict) -> None:
    result = prune(
        in_type(TOPOLOGIES["resnet-text"](), TensorProto.FLOAT16), pictures(48).astype(np.float16), **options
    )
    assert types(result.model) == {"float16"}
    assert result.plan.groups


@pytest.mark.parametrize("to", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_made_up_inputs_have_the_type_of_the_model(to: int) -> None:
    result = prune(in_type(perceptron(), to), None)
    assert result.plan.groups


@pytest.mark.parametrize("options", OPTIONS, ids=["magnitude", "default"])
def test_an_island_of_half_precision_stays_one(options: dict) -> None:
    result = prune(island(TOPOLOGIES["resnet-text"]()), pictures(48), **options)
    assert types(result.model) == {"float16"}
    assert [node.op_type for node in result.model.graph.node].count("Cast") == 2
    assert result.plan.groups


def test_half_precision_gives_the_plan_of_single_precision() -> None:
    single = prune(perceptron(), rows(np.float32))
    half = prune(in_type(perceptron(), TensorProto.FLOAT16), rows(np.float16))
    assert {g.name: g.kept for g in half.plan.groups} == {g.name: g.kept for g in single.plan.groups}


def test_inputs_and_outputs_in_bfloat16_are_fed_and_read() -> None:
    body = f"xf = Cast <to=1> (x){PERCEPTRON.replace('(x,', '(xf,').replace('y =', 'yf =')} y = Cast <to=16> (yf)"
    model = model_from_text("(bfloat16[N,12] x) => (bfloat16[N,5] y)", body, WEIGHTS)
    for data in (rows(ml_dtypes.bfloat16), None):
        result = prune(model, data)
        assert result.plan.groups
        assert result.report.proof <= 5e-3


def test_layers_in_bfloat16_are_refused_with_what_to_do() -> None:
    model = in_type(perceptron(), TensorProto.BFLOAT16)
    with pytest.raises(BadInput, match="no such operator for the model's data type: convert the model to float32"):
        prune(model, rows(ml_dtypes.bfloat16))
    with pytest.raises(BadInput, match=r"array.astype\(ml_dtypes.bfloat16\)"):
        prune(model, rows(np.float32))


def test_convolutions_in_double_are_refused_with_what_to_do() -> None:
    with pytest.raises(BadInput, match=r"Could not find an implementation for Conv.*convert the model to float32"):
        prune(in_type(TOPOLOGIES["resnet-text"](), TensorProto.DOUBLE), pictures(16).astype(np.float64))
