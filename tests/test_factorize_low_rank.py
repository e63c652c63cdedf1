"""Layers written as products: the numbers are those of the whole layer whose weight the product is."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from dense_mask import max_relative_difference, run
from graph_text import Weights, branching, model_from_text

from onnxprune.graph import array_of, constants
from onnxprune.model_io import load
from onnxprune.passes.factorize_low_rank import factorize_low_rank, multiplied
from onnxprune.passes.normalise import normalise

CASES: dict[str, tuple[str, str, Weights, tuple[int, int]]] = {
    "gemm": ("float[N,10] x", "y = Gemm (x, w, b)", {"w": (10, 8), "b": (8,)}, (8, 10)),
    "gemm, rows an output": ("float[N,10] x", "y = Gemm <transB=1> (x, w, b)", {"w": (8, 10), "b": (8,)}, (8, 10)),
    "gemm, scaled": (
        "float[10,4] x",
        "y = Gemm <transA=1, alpha=0.5, beta=2.0> (x, w, b)",
        {"w": (10, 8), "b": (8,)},
        (8, 10),
    ),
    "matmul over tokens": ("float[N,3,10] x", "y = MatMul (x, w)", {"w": (10, 8)}, (8, 10)),
    "weight on the left": ("float[N,10,3] x", "y = MatMul (w, x)", {"w": (8, 10)}, (8, 10)),
    "pointwise conv": ("float[N,10,5,5] x", "y = Conv (x, w, b)", {"w": (8, 10, 1, 1), "b": (8,)}, (8, 10)),
    "conv": (
        "float[N,4,7,7] x",
        "y = Conv <strides=[2,1], pads=[1,0,1,2], dilations=[1,2]> (x, w, b)",
        {"w": (8, 4, 3, 3), "b": (8,)},
        (8, 36),
    ),
    "conv of signals": ("float[N,4,9] x", "y = Conv <pads=[1,1]> (x, w)", {"w": (8, 4, 3)}, (8, 12)),
}


def whole(case: str) -> onnx.ModelProto:
    given, body, weights, _ = CASES[case]
    ranks = {"Conv": "A,B,C,D" if "5,5" in given or "7,7" in given else "A,B,C", "MatMul": "A,B,C", "Gemm": "A,B"}
    operator = next(name for name in ranks if name in body)
    return model_from_text(f"({given}) => (float[{ranks[operator]}] y)", body, weights)


def rows_of(case: str, weight: np.ndarray) -> np.ndarray:
    """The weight as (outputs, features)."""
    outputs, features = CASES[case][3]
    return weight.reshape(outputs, features) if weight.shape[0] == outputs else weight.T


def factors(case: str, model: ir.Model, rank: int) -> tuple[np.ndarray, np.ndarray]:
    weight = next(array_of(value) for value in constants(model) if value.name == "w")
    left, sigma, right = np.linalg.svd(rows_of(case, weight).astype(np.float64), full_matrices=False)
    return sigma[:rank, None] * right[:rank], left[:, :rank]


def feeds(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    given = model.graph.input[0]
    shape = [d.dim_value or 2 for d in given.type.tensor_type.shape.dim]
    return {given.name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


def written(case: str, rank: int) -> tuple[ir.Model, ir.Model, ir.Model]:
    """(the model, factored, multiplied out again)."""
    model = normalise(load(whole(case)).model)
    name = next(node.name for node in model.graph if node.op_type in ("Gemm", "MatMul", "Conv"))
    factored, told = factorize_low_rank(model, {name or "": factors(case, model, rank)})
    return model, factored, multiplied(model, factored, told)


def difference(one: ir.Model, other: ir.Model) -> float:
    first, second = ir.to_proto(one), ir.to_proto(other)
    return max_relative_difference(run(first, feeds(first)), run(second, feeds(first)))


@pytest.mark.parametrize("case", CASES)
def test_at_full_rank_the_model_computes_what_it_did(case: str) -> None:
    model, factored, _ = written(case, 8)
    assert difference(factored, model) < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_the_graph_computes_the_dense_product_of_its_factors(case: str) -> None:
    model, factored, dense = written(case, 3)
    assert difference(factored, dense) < 1e-5
    assert difference(dense, model) > 1e-2
    weight = next(array_of(value) for value in constants(dense) if value.name == "w")
    first, second = factors(case, model, 3)
    assert rows_of(case, weight) == pytest.approx(second @ first, abs=1e-6)


SIDES = {
    "plain": "pads=[1,1,1,1]",
    "strides and uneven pads": "strides=[2,3], pads=[1,0,2,1], kernel_shape=[3,2]",
    "dilations": "dilations=[2,1], pads=[2,0,0,1]",
    "same, more at the end": 'auto_pad="SAME_UPPER", strides=[2,2]',
    "same, more at the start": 'auto_pad="SAME_LOWER", strides=[1,2], dilations=[1,1]',
    "valid": 'auto_pad="VALID", strides=[1,2], group=1',
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("case", SIDES)
def test_a_convolution_along_either_side_computes_the_dense_product(case: str, bias: bool) -> None:
    body = f"y = Conv <{SIDES[case]}> (x, w{', b' if bias else ''})"
    weights: Weights = {"w": (6, 4, 3, 2)} | ({"b": (6,)} if bias else {})
    model = normalise(load(model_from_text("(float[N,4,9,8] x) => (float[A,B,C,D] y)", body, weights)).model)
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((5, 4, 3)), rng.standard_normal((6, 5, 2))
    factored, told = factorize_low_rank(model, {"Conv:y": (first, second)})
    dense = multiplied(model, factored, told)
    weight = next(array_of(value) for value in constants(dense) if value.name == "w")
    assert weight == pytest.approx(np.einsum("nkj,kci->ncij", second, first), abs=1e-6)
    assert difference(factored, dense) < 1e-5
    assert told[0].along and told[0].rank == 5
    shapes = {value.name: array_of(value).shape for value in constants(factored)}
    assert shapes == {"w.first": (5, 4, 3, 1), "w.second": (6, 5, 1, 2)} | ({"b": (6,)} if bias else {})


def test_nodes_and_constants_are_named_after_the_layer() -> None:
    _, factored, _ = written("conv", 3)
    assert [(node.name, node.outputs[0].name) for node in factored.graph] == [
        ("Conv:y.first", "w.between"),
        ("Conv:y", "y"),
    ]
    shapes = {value.name: array_of(value).shape for value in constants(factored)}
    assert shapes == {"w.first": (3, 4, 3, 3), "w.second": (8, 3, 1, 1), "b": (8,)}


def test_a_weight_that_another_layer_shares_stays_for_that() -> None:
    body = "h = MatMul (x, w) y = MatMul (h, w)"
    model = normalise(load(model_from_text("(float[N,6] x) => (float[N,6] y)", body, {"w": (6, 6)})).model)
    factored, _ = factorize_low_rank(model, {"MatMul:h": (np.eye(6)[:2], np.ones((6, 2)))})
    names = {value.name for value in constants(factored)}
    assert names == {"w", "w.first", "w.second"}


def test_a_weight_that_lies_in_a_body_goes_from_there() -> None:
    model = normalise(load(branching("o = MatMul (x, w)", "[N,6]", {"w": (6, 6)})).model)
    name = next(node.name for node in model.graph.all_nodes() if node.op_type == "MatMul") or ""
    weight = next(array_of(value) for value in constants(model) if value.name == "w").astype(np.float64)
    left, sigma, right = np.linalg.svd(weight.T)
    factored, told = factorize_low_rank(model, {name: (sigma[:4, None] * right[:4], left[:, :4])})
    names = {value.name for value in constants(factored)}
    assert {"w.first", "w.second"} < names and "w" not in names
    assert difference(factored, multiplied(model, factored, told)) < 1e-5
    assert difference(factored, model) > 1e-2


def test_a_gemm_of_an_old_opset_gets_the_bias_that_it_has_to_have() -> None:
    weights: Weights = {"w": (8, 10), "b": (8,)}
    text = model_from_text("(float[N,10] x) => (float[A,B] y)", "y = Gemm <transB=1> (x, w, b)", weights, opset=9)
    model = normalise(load(text).model)
    factored, told = factorize_low_rank(model, {"Gemm:y": factors("gemm, rows an output", model, 3)})
    onnx.checker.check_model(ir.to_proto(factored))
    assert difference(factored, multiplied(model, factored, told)) < 1e-5


def test_half_precision_stays_half_precision() -> None:
    body = "y = MatMul (x, w)"
    weight = np.random.default_rng(0).standard_normal((6, 6)).astype(np.float16)
    model = normalise(load(model_from_text("(float16[N,6] x) => (float16[N,6] y)", body, {"w": weight})).model)
    factored, _ = factorize_low_rank(model, {"MatMul:y": (np.eye(6)[:2], np.ones((6, 2)))})
    assert {str(array_of(value).dtype) for value in constants(factored)} == {"float16"}
    onnx.checker.check_model(ir.to_proto(factored), full_check=True)


def test_scalars_stay_scalars() -> None:
    body = "h = MatMul (x, w) y = Mul (h, s)"
    weights: Weights = {"w": (6, 6), "s": np.array(0.5, np.float32)}
    model = normalise(load(model_from_text("(float[N,6] x) => (float[N,6] y)", body, weights)).model)
    factored, told = factorize_low_rank(model, {"MatMul:h": (np.eye(6)[:2], np.ones((6, 2)))})
    shapes = {value.name: array_of(value).shape for value in constants(multiplied(model, factored, told))}
    assert shapes == {"w": (6, 6), "s": ()}
