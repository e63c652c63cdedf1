"""BatchNormalization folded into convolutions: the same function, fewer nodes, and nothing else touched."""

import onnx
import onnx_ir as ir
import pytest
from dense_mask import max_relative_difference, run
from graph_text import Weights, batchnorm, model_from_text
from topologies import TOPOLOGIES, feeds

from onnxprune.model_io import load
from onnxprune.passes.fold_batchnorm import fold_batchnorm
from onnxprune.passes.normalise import normalise


def small(
    conv: str, weights: Weights, tail: str = "y = Relu (n)", outputs: str = "float[N,6,A,B] y"
) -> onnx.ModelProto:
    body = f"c = {conv} n = BatchNormalization <epsilon=0.01> (c, n_gamma, n_beta, n_mean, n_var) {tail}"
    return model_from_text(f"(float[N,4,5,5] x) => ({outputs})", body, weights | batchnorm("n", 6))


def folded(model: onnx.ModelProto, *names: str) -> ir.Model:
    return fold_batchnorm(normalise(load(model).model), names or ["Conv:c", "ConvTranspose:c"])


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def same(model: onnx.ModelProto, after: ir.Model) -> None:
    inputs = feeds(model)
    assert max_relative_difference(run(ir.to_proto(after), inputs), run(model, inputs)) < 1e-6


CASES = {
    "conv": ("Conv (x, w)", {"w": (6, 4, 3, 3)}),
    "conv with bias": ("Conv (x, w, b)", {"w": (6, 4, 3, 3), "b": (6,)}),
    "grouped conv": ("Conv <group=2> (x, w, b)", {"w": (6, 2, 3, 3), "b": (6,)}),
    "transposed": ("ConvTranspose <strides=[2,2]> (x, w)", {"w": (4, 6, 2, 2)}),
    "grouped transposed": ("ConvTranspose <group=2> (x, w, b)", {"w": (4, 3, 3, 3), "b": (6,)}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_convolution_takes_the_norm_in(case: str) -> None:
    model = small(*CASES[case])
    after = folded(model)
    assert operators(after) == [CASES[case][0].split()[0], "Relu"]
    same(model, after)


def test_a_norm_that_is_the_output_leaves_its_name_to_the_convolution() -> None:
    model = small(*CASES["conv"], tail="", outputs="float[N,6,3,3] n")
    after = folded(model)
    assert operators(after) == ["Conv"]
    assert [value.name for value in after.graph.outputs] == ["n"]
    assert after.graph.outputs[0].shape is not None
    same(model, after)


def test_only_the_named_convolutions_are_folded_and_the_model_itself_is_not_changed() -> None:
    model = normalise(load(small(*CASES["conv"])).model)
    assert operators(fold_batchnorm(model, ["Conv:other"])) == ["Conv", "BatchNormalization", "Relu"]
    fold_batchnorm(model, ["Conv:c"])
    assert operators(model) == ["Conv", "BatchNormalization", "Relu"]


@pytest.mark.parametrize(
    ("tail", "outputs"),
    [("y = Add (n, c)", "float[N,6,3,3] y"), ("y = Relu (n)", "float[N,6,3,3] y, float[N,6,3,3] c")],
)
def test_a_convolution_that_others_read_too_is_left_alone(tail: str, outputs: str) -> None:
    assert "BatchNormalization" in operators(folded(small(*CASES["conv"], tail=tail, outputs=outputs)))


def test_a_shared_kernel_is_left_alone_and_shared_norm_vectors_are_no_obstacle() -> None:
    after = folded(TOPOLOGIES["tied-convolutions-text"](), "Conv:c0", "Conv:c1", "Conv:c2")
    assert operators(after).count("BatchNormalization") == 2
    body = """
    c = Conv (x, w) n = BatchNormalization (c, n_gamma, n_beta, n_mean, n_var)
    d = Conv (n, v) y = BatchNormalization (d, n_gamma, n_beta, n_mean, n_var)
    """
    weights: Weights = {"w": (6, 4, 3, 3), "v": (6, 6, 1, 1), **batchnorm("n", 6)}
    model = model_from_text("(float[N,4,5,5] x) => (float[N,6,3,3] y)", body, weights)
    after = folded(model, "Conv:c", "Conv:d")
    assert operators(after) == ["Conv", "Conv"]
    same(model, after)


def test_the_new_bias_keeps_half_precision() -> None:
    model = normalise(load(small(*CASES["conv"])).model)
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy().astype("float16"), name=value.name)
        value.dtype = ir.DataType.FLOAT16
    after = fold_batchnorm(model, ["Conv:c"])
    bias = next(iter(after.graph)).inputs[2]
    assert bias is not None and bias.dtype == ir.DataType.FLOAT16
