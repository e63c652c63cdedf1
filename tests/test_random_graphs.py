"""Random graphs are valid models by construction, and the table of steps is really used."""

import numpy as np
import onnx
import pytest
from dense_mask import run
from graph_builder import read_by
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_graphs import HEADS, STEPS, random_graphs
from topologies import feeds

quick = settings(max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
MARKS = {
    "conv": {"Conv"},
    "batch norm": {"BatchNormalization"},
    "activation": {"Relu", "Sigmoid", "LeakyRelu", "HardSwish", "Tanh", "PRelu", "Clip", "Softplus"},
    "depthwise": {"Conv"},
    "residual": {"Add", "Sub", "Mul", "Max", "Sum"},
    "concat": {"Concat"},
    "split and recombine": {"Split"},
    "slice of channels": {"Slice"},
    "channel shuffle": {"Transpose"},
    "squeeze and excitation": {"HardSigmoid", "Sigmoid"},
    "arithmetic with a constant": {"Add", "Mul", "Sub", "Div"},
    "pool": {"MaxPool", "AveragePool"},
    "pad": {"Pad"},
    "upsample": {"Resize"},
    "conv transpose": {"ConvTranspose"},
    "matmul over channels last": {"MatMul"},
    "blocks of channels": {"DepthToSpace", "SpaceToDepth"},
    "einsum": {"Einsum"},
    "gather of channels": {"Gather"},
    "attention": {"Softmax"},
    "norm and dense over tokens": {"LayerNormalization"},
    "gated feed forward": {"MatMul"},
    "recurrent": {"LSTM", "GRU", "RNN"},
    "branches": {"If"},
    "quantised conv": {"DequantizeLinear"},
    "group norm written out": {"InstanceNormalization"},
    "embedding": {"Gather"},
    "where": {"Where"},
    "pixel shuffle written out": {"Transpose"},
}


@quick
@given(random_graphs(), st.integers(0, 1000))
def test_a_random_graph_passes_the_checker_and_runs_to_finite_outputs(model: onnx.ModelProto, seed: int) -> None:
    onnx.checker.check_model(model, full_check=True)
    (output,) = run(model, feeds(model, seed)).values()
    assert output.shape[:2] in {(2, 2), (2, 3)}
    assert np.isfinite(output).all()


@pytest.mark.parametrize("step", STEPS)
def test_each_step_alone_makes_a_valid_graph_that_holds_its_operator(step: str) -> None:
    @settings(quick, max_examples=12)
    @given(random_graphs(steps=[step], heads=["dense prediction"], min_steps=1, max_steps=3))
    def check(model: onnx.ModelProto) -> None:
        onnx.checker.check_model(model, full_check=True)
        (output,) = run(model, feeds(model)).values()
        assert np.isfinite(output).all()
        # The stem and the head are convolutions too.
        least = 3 if "Conv" in MARKS[step] else 1
        assert sum(node.op_type in MARKS[step] for node in model.graph.node) >= least

    check()


@pytest.mark.parametrize("head", HEADS)
def test_each_head_follows_any_feature_map(head: str) -> None:
    @settings(quick, max_examples=12)
    @given(random_graphs(heads=[head], max_steps=4))
    def check(model: onnx.ModelProto) -> None:
        assert all(len(values) == 3 for values in run(model, feeds(model, batch=3)).values())

    check()


def test_a_graph_is_a_function_of_the_draw() -> None:
    def draws() -> list[bytes]:
        found: list[bytes] = []

        @settings(quick, max_examples=10, database=None)
        @given(random_graphs())
        def collect(model: onnx.ModelProto) -> None:
            found.append(model.SerializeToString(deterministic=True))

        collect()
        return found

    first = draws()
    assert first == draws()
    assert len(set(first)) > 1


@quick
@given(random_graphs())
def test_no_node_or_weight_is_left_over(model: onnx.ModelProto) -> None:
    read = {name for node in model.graph.node for name in read_by(node)} | {model.graph.output[0].name}
    assert {tensor.name for tensor in model.graph.initializer} <= read
    assert all(read.intersection(node.output) for node in model.graph.node)
