"""Folding random graphs with random zeros and gates: the outputs stay, and what could go is gone."""

import numpy as np
import onnx
from dense_mask import max_relative_difference, run
from fold_case import CLOSE, Fold
from graph_text import Weights, model_from_text
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from random_graphs import random_graphs
from topologies import feeds

from onnxprune.folding import fold

quick = settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
Array = np.ndarray


def with_zeros(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Rows and columns of zeros in the weights."""
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor).copy()
        if array.dtype.kind == "f" and array.ndim > 1:
            for axis in range(2):
                if rng.random() < 0.4:
                    np.moveaxis(array, axis, 0)[rng.random(array.shape[axis]) < 0.4] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def with_gates(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Factors, zeros among them, behind some nodes that make channels."""
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    dims = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in inferred}
    outputs = {value.name for value in model.graph.output}
    nodes = []
    for node in list(model.graph.node):
        nodes.append(node)
        name = node.output[0]
        if len(node.output) == 1 and len(dims.get(name, ())) == 4 and name not in outputs and rng.random() < 0.4:
            factors = np.where(rng.random(dims[name][1]) < 0.4, 0, rng.random(dims[name][1])).astype(np.float32)
            gate = onnx.numpy_helper.from_array(factors.reshape(1, -1, 1, 1), f"{name}_gate")
            model.graph.initializer.append(gate)
            node.output[0] = f"{name}_raw"
            nodes.append(onnx.helper.make_node("Mul", [f"{name}_raw", gate.name], [name]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


@quick
@given(random_graphs(), st.integers(0, 10_000))
def test_a_folded_graph_gives_what_the_masked_one_gives(model: onnx.ModelProto, seed: int) -> None:
    masked, rng = onnx.ModelProto(), np.random.default_rng(seed)
    masked.CopyFrom(model)
    with_zeros(masked, rng)
    with_gates(masked, rng)
    try:
        expected = run(masked, feeds(masked, seed))
    except Exception:  # a scale of zero
        assume(False)
    assume(all(np.isfinite(array).all() for array in expected.values()))  # a quotient of nothing
    folded = fold(masked)
    assert max_relative_difference(run(folded.model, feeds(masked, seed)), expected) < CLOSE
    again = fold(folded.model)
    assert again.report.groups == ()
    assert again.report.constants == ()


def dense_chain(widths: list[int], rng: np.random.Generator, density: float) -> tuple[onnx.ModelProto, list[Array]]:
    """Gemm and Relu in turn, the weights of which some hold zeros."""
    shapes = list(zip(widths[1:], widths[:-1], strict=True))
    matrices = [
        (rng.uniform(0.2, 1, shape) * (rng.random(shape) < density) * (rng.random((shape[0], 1)) < 0.8)).astype(
            np.float32
        )
        for shape in shapes
    ]
    weights: Weights = {f"w{i}": matrix for i, matrix in enumerate(matrices)}
    weights |= {f"b{i}": rng.standard_normal(n).astype(np.float32) for i, n in enumerate(widths[1:])}
    last = len(shapes) - 1
    names = ["x", *(f"r{i}" for i in range(last))]
    lines = [f"h{i} = Gemm <transB = 1> ({names[i]}, w{i}, b{i}) r{i} = Relu (h{i})" for i in range(last)]
    body = "\n".join([*lines, f"y = Gemm <transB = 1> ({names[-1]}, w{last}, b{last})"])
    return model_from_text(f"(float[N,{widths[0]}] x) => (float[N,{widths[-1]}] y)", body, weights), matrices


def alive(matrices: list[Array]) -> list[int]:
    """How many units of each hidden layer depend on the input and are read on a way to the output."""
    varies = [np.ones(matrices[0].shape[1], np.bool_)]
    for matrix in matrices[:-1]:
        varies.append((matrix != 0) @ varies[-1])
    read = np.ones(matrices[-1].shape[0], np.bool_)
    counts = []
    for matrix, own in zip(matrices[:0:-1], varies[:0:-1], strict=True):
        read = ((matrix != 0).T @ read) & own
        counts.append(int(read.sum()))
    return counts[::-1]


@settings(quick, max_examples=25)
@given(st.lists(st.integers(2, 9), min_size=3, max_size=6), st.integers(0, 10_000), st.sampled_from([0.25, 0.4, 0.7]))
def test_exactly_the_units_that_matter_remain(widths: list[int], seed: int, density: float) -> None:
    model, matrices = dense_chain(widths, np.random.default_rng(seed), density)
    expected = alive(matrices)
    assume(all(expected))
    found = Fold(model)
    assert found.difference() < CLOSE
    assert [found.shapes()[f"w{i}"][0] for i in range(len(expected))] == expected
