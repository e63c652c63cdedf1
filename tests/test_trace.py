"""What one run shows: shapes, shape-like integers, and where each of them comes from."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from graph_text import Weights, integers, model_from_text

from onnxprune.calibration.trial import Trial
from onnxprune.errors import BadInput
from onnxprune.graph import values_by_name
from onnxprune.passes.normalise import normalise
from onnxprune.pieces import shape_session
from onnxprune.trace import Origin, Trace, trace

BODY = """
    c = Conv (x, c_w)
    d = Shape (c)
    tail = Shape <start=2> (c)
    n = Gather (d, zero0)
    m = Gather (d, one0)
    half = Div (m, two0)
    bias = Add (half, m)
    n1 = Unsqueeze (n, zero)
    h1 = Unsqueeze (half, zero)
    cut = Slice (d, one, far)
    k = Concat <axis=0> (n1, two, h1, cut)
    k32 = Cast <to=6> (k)
    k64 = Cast <to=7> (k32)
    v = Reshape (c, k64)
    big = Range (zero0, many, one0)
    odd = ReduceSum <keepdims=0> (d)
    s = Sigmoid (v)
"""
WEIGHTS: Weights = {"c_w": (6, 3, 1, 1), "zero0": np.int64(0), "one0": np.int64(1), "two0": np.int64(2)}
WEIGHTS |= {"zero": integers(0), "one": integers(1), "two": integers(2), "far": integers(3), "many": np.int64(100)}


@pytest.fixture
def traced() -> tuple[Trace, dict[str, ir.Value]]:
    body = BODY.replace("cut = Slice (d, one, far)", "cut = Slice (tail, zero, two)")
    model = ir.from_proto(model_from_text("(float[N,3,4,5] x) => (float[A,B,C,D,E] s)", body, WEIGHTS))
    return trace(model, {"x": np.zeros((2, 3, 4, 5), np.float32)}), values_by_name(model)


def test_shapes_are_those_of_the_run_and_constants_have_their_own(
    traced: tuple[Trace, dict[str, ir.Value]],
) -> None:
    known, values = traced
    assert known.batch == 2
    assert known.shape(values["x"]) == (2, 3, 4, 5)
    assert known.shape(values["c"]) == (2, 6, 4, 5)
    assert known.shape(values["v"]) == (2, 2, 3, 4, 5)
    assert known.shape(values["c_w"]) == (6, 3, 1, 1)
    assert not known.knows(ir.Value(name="nothing"))


def test_short_integer_vectors_are_kept_and_long_or_other_ones_are_not(
    traced: tuple[Trace, dict[str, ir.Value]],
) -> None:
    known, values = traced

    def integers_of(name: str) -> list[int] | None:
        found = known.integers(values[name])
        return None if found is None else found.tolist()

    assert integers_of("d") == [2, 6, 4, 5]
    assert integers_of("k64") == integers_of("k32") == [2, 2, 3, 4, 5]
    assert integers_of("half") == [3]
    assert integers_of("two") == [2]
    assert integers_of("c_w") is integers_of("c") is integers_of("big") is None


def origin(traced: tuple[Trace, dict[str, ir.Value]], name: str, element: int) -> Origin:
    known, values = traced
    found = known.origin(values[name], element)
    assert found is not None
    return found


def leaves(found: Origin) -> list[tuple[str | None, int]]:
    return [(value.name, axis) for value, axis in found.leaves]


def test_a_constant_deep_in_a_chain_is_found_with_its_place(traced: tuple[Trace, dict[str, ir.Value]]) -> None:
    found = origin(traced, "k64", 1)
    assert (found.current, found.leaves, found.direct) == (2, (), True)
    assert found.place is not None and found.place.node is not None
    assert (found.place.node.op_type, found.place.place, found.place.element) == ("Concat", 1, 0)


def test_a_constant_that_is_asked_about_itself_has_no_node(traced: tuple[Trace, dict[str, ir.Value]]) -> None:
    found = origin(traced, "two", 0)
    assert found.place is not None
    assert (found.place.node, found.place.element, found.current) == (None, 0, 2)


def test_sizes_are_followed_to_the_tensor_and_axis_they_are_read_from(
    traced: tuple[Trace, dict[str, ir.Value]],
) -> None:
    assert leaves(origin(traced, "k64", 0)) == [("c", 0)]
    assert leaves(origin(traced, "k64", 3)) == [("c", 2)]
    assert leaves(origin(traced, "k64", 4)) == [("c", 3)]
    assert origin(traced, "k64", 3).direct


def test_arithmetic_on_sizes_tells_whether_it_is_proportional(traced: tuple[Trace, dict[str, ir.Value]]) -> None:
    half = origin(traced, "k64", 2)
    assert (leaves(half), half.current, half.proportional, half.direct) == ([("c", 1)], 3, True, False)
    assert not origin(traced, "bias", 0).proportional


def test_a_computed_size_can_be_replaced_nearest_to_its_reader_where_it_stands_alone(
    traced: tuple[Trace, dict[str, ir.Value]],
) -> None:
    place = origin(traced, "k64", 2).place
    assert place is not None and place.node is not None
    assert (place.node.op_type, place.place) == ("Concat", 2)
    assert origin(traced, "d", 1).place is None


def test_other_computations_are_lost(traced: tuple[Trace, dict[str, ir.Value]]) -> None:
    known, values = traced
    assert known.origin(values["odd"], 0) is None
    assert known.origin(values["c"], 0) is None


def test_inputs_that_the_model_does_not_take_are_bad_input() -> None:
    model = ir.from_proto(model_from_text("(float[N,3] x) => (float[N,3] y)", "y = Relu (x)", {}))
    with pytest.raises(BadInput, match="onnxruntime cannot run"):
        trace(model, {"x": np.zeros((2, 4), np.float32)})


def test_a_model_is_covered_whose_every_result_was_seen(traced: tuple[Trace, dict[str, ir.Value]]) -> None:
    known, values = traced
    graph = values["c"].graph
    assert graph is not None
    model = ir.Model(graph, ir_version=10)
    assert known.covers(model)
    new = ir.node("Relu", [values["c"]], name="new")
    new.outputs[0].name = "unseen"
    graph.append(new)
    assert not known.covers(model)


def test_a_model_that_was_seen_to_run_on_the_same_inputs_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_from_text("(float[N,4] x) => (float[N,2] y)", "h = MatMul (x, w) y = Relu (h)", {"w": (4, 2)})
    graph, x = ir.from_proto(model), np.ones((3, 4), np.float32)
    trial = Trial(graph)
    assert trial.refusal({"x": x}) is None
    opened: list[int] = []

    def counted(*args: Any) -> Any:
        opened.append(1)
        return shape_session(*args)

    monkeypatch.setattr("onnxprune.pieces.shape_session", counted)
    assert trace(graph, {"x": x}, trial.seen).shapes == {"x": (3, 4), "h": (3, 2), "y": (3, 2)}
    assert opened == []
    assert trace(graph, {"x": x + 1}, trial.seen).shapes["h"] == (3, 2)
    assert opened == [1]
    trace(normalise(ir.from_proto(model_from_text(*RENAMED))), {"x": x}, trial.seen)
    assert opened == [1, 1]


RENAMED: tuple[str, str, Weights] = (
    "(float[N,4] x) => (float[N,2] y)",
    "g = MatMul (x, w) y = Relu (g)",
    {"w": (4, 2)},
)


def test_a_trial_runs_what_the_runtime_could_leave_out() -> None:
    weights: Weights = {"s": integers(1, 12), "w": (12, 2)}
    model = model_from_text("(float[N,3,4] x) => (float[N,2] y)", "r = Reshape (x, s) y = MatMul (r, w)", weights)
    trial = Trial(ir.from_proto(model))
    assert trial.refusal({"x": np.ones((2, 3, 4), np.float32)}) is not None
    assert trial.seen is None
    assert trial.refusal({"x": np.ones((1, 3, 4), np.float32)}) is None
    assert trial.seen is not None
    assert trial.seen[1] == {"r": (1, 12), "y": (1, 2)}
