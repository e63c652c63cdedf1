"""Shared vectors become one for each reader; shared weights stay one."""

import numpy as np
from dense_mask import run
from graph_text import Weights, model_from_text
from removal import analysed, check_every_removal, proto
from topologies import feeds

from onnxprune.model_io import load
from onnxprune.passes.normalise import normalise

BODY = "a = MatMul (x, w) b = Add (a, v) c = Relu (b) d = MatMul (c, w) e = Add (d, v) y = MatMul (e, o)"
WEIGHTS: Weights = {"w": (6, 6), "v": (6,), "o": (6, 2)}


def test_each_reader_of_a_vector_gets_its_own_and_the_model_computes_the_same() -> None:
    model = model_from_text("(float[N,6] x) => (float[N,2] y)", BODY, WEIGHTS)
    normal = normalise(load(model).model)
    added = {node.name: node.inputs[1] for node in normal.graph if node.op_type == "Add"}
    first, second = added.values()
    assert first is not second
    assert first is not None and second is not None and first.const_value and second.const_value
    np.testing.assert_array_equal(first.const_value.numpy(), second.const_value.numpy())
    assert len(normal.graph.initializers["w"].uses()) == 2
    inputs = feeds(model)
    np.testing.assert_array_equal(run(proto(normal), inputs)["y"], run(model, inputs)["y"])


def test_layers_that_shared_a_bias_lose_channels_of_their_own() -> None:
    body = "a = MatMul (x, p) b = Add (a, v) c = MatMul (x, q) d = Add (c, v) "
    body += "e = MatMul (b, o) f = MatMul (d, u) y = Add (e, f)"
    weights: Weights = {"p": (5, 6), "q": (5, 6), "v": (6,), "o": (6, 2), "u": (6, 2)}
    case = analysed(model_from_text("(float[N,5] x) => (float[N,2] y)", body, weights))
    assert case.widths() == {"MatMul:a": 6, "MatMul:c": 6}
    check_every_removal(case)


def test_a_vector_that_is_an_input_of_the_model_as_well_stays_shared() -> None:
    model = model_from_text("(float[N,6] x, float[6] v) => (float[N,2] y)", BODY, WEIGHTS)
    normal = normalise(load(model).model)
    assert len({node.inputs[1] for node in normal.graph if node.op_type == "Add"}) == 1
