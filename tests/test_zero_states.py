"""Initial states that are zeros are left out, others stay, and the model gives the same bits."""

import numpy as np
import pytest
from dense_mask import run
from graph_text import Weights, integers, model_from_text
from recurrent_case import Network
from removal import analysed, proto

from onnxprune.model_io import load
from onnxprune.passes.normalise import normalise

SHAPE = "n = Shape <start=1, end=2> (x) s = Concat <axis=0> (one, n, two)"


def states(body: str, **weights: np.ndarray | tuple[int, ...]) -> list[str]:
    """The names of a layer's initial state and cell after the pre-pass, '' where left out."""
    given: Weights = {"w": (1, 8, 4), "r": (1, 8, 2), "one": integers(1), "two": integers(2), **weights}
    text = f"{SHAPE} {body} y, y_h, y_c = LSTM <hidden_size=2> (x, w, r, , , h, c)"
    model = normalise(load(model_from_text("(float[5,N,4] x) => (float[5,1,N,2] y)", text, given)).model)
    (layer,) = [node for node in proto(model).graph.node if node.op_type == "LSTM"]
    return [*layer.input[5:], "", ""][:2]


@pytest.mark.parametrize(
    "made",
    [
        "h = ConstantOfShape (s)",
        "h = ConstantOfShape <value=float[1]{0.0}> (s)",
        "h = Expand (zero, s)",
        "f = Concat <axis=0> (four, n, two) z = ConstantOfShape (f) h = Slice (z, one, two, first)",
        "e = ConstantOfShape (n) u = Unsqueeze (e, first) v = Unsqueeze (u, two) h = Expand (v, s)",
    ],
)
def test_zeros_are_left_out(made: str) -> None:
    constants = {"zero": np.zeros((1, 1, 1), np.float32), "first": integers(0), "four": integers(4)}
    assert states(f"{made} c = ConstantOfShape <value=float[1]{{0.5}}> (s)", **constants) == ["", "c"]


@pytest.mark.parametrize(
    "made",
    [
        "h = ConstantOfShape <value=float[1]{-1}> (s)",
        "h = Expand (some, s)",
        "z = ConstantOfShape (s) h = Exp (z)",
        "p = Slice (x, first, one, first) h = Slice (p, first, two, two)",
    ],
)
def test_what_may_not_be_zero_stays(made: str) -> None:
    constants = {"some": np.array([[[0, 1]]], np.float32), "first": integers(0)}
    assert states(f"{made} c = ConstantOfShape (s)", **constants) == ["h", ""]


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_layers_that_shared_their_zeros_lose_units_of_their_own(direction: str) -> None:
    model = Network("LSTM", direction, 4, state="zeros", cell="zeros").model()
    case = analysed(model)
    assert case.widths() == {"MatMul:i": 6, "LSTM:a": 4, "LSTM:b": 4}
    assert "ConstantOfShape" not in {node.op_type for node in proto(case.analysis.model).graph.node}
    np.testing.assert_array_equal(run(proto(case.analysis.model), case.inputs)["y"], run(model, case.inputs)["y"])
