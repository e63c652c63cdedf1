"""Padded positions of sequences teach no layer anything."""

import numpy as np
import onnx
import pytest
from graph_text import Weights, model_from_text

from onnxprune import compress
from onnxprune.calibration.padding import real_positions

BODY = """
m = Cast <to=1> (attention_mask) w = Unsqueeze (m, last)
h = MatMul (x, a) i = Add (h, b) r = Relu (i) o = MatMul (r, c) p = Add (o, d) s = Mul (p, w) y = ReduceSum (s, middle)
"""
WEIGHTS: Weights = {"a": (6, 24), "b": (24,), "c": (24, 5), "d": (5,)}
WEIGHTS |= {"last": np.array([2]), "middle": np.array([1])}


def model() -> onnx.ModelProto:
    return model_from_text("(float[N,9,6] x, int64[N,9] attention_mask) => (float[N,1,5] y)", BODY, WEIGHTS)


def inputs(garbage: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    mask = (np.arange(9) < rng.integers(3, 9, (64, 1))).astype(np.int64)
    x = rng.standard_normal((64, 9, 6)).astype(np.float32)
    return {"x": np.where(mask[..., None] == 1, x, np.float32(garbage) * (x + 1)), "attention_mask": mask}


def test_a_mask_is_an_input_of_that_name_that_holds_zeros_and_ones() -> None:
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    found = real_positions({"ids": mask, "attention_mask": mask})
    assert found is not None
    assert found.tolist() == [[True, True, False], [True, False, False]]
    assert real_positions({"ids": mask}) is None
    assert real_positions({"attention_mask": np.ones((2, 3))}) is None
    assert real_positions({"attention_mask": np.array([[0, 5, 1]])}) is None


@pytest.mark.parametrize("method", ["obs", "thinet"])
def test_what_stands_on_padding_changes_nothing(method: str) -> None:
    plans, weights = [], []
    for garbage in (0.0, 100.0):
        result = compress(model(), calib=inputs(garbage), method=method, ratio=0.5, align=1, measure=False)
        plans.append(result.plan.groups[0].kept)
        weights.append({t.name: onnx.numpy_helper.to_array(t) for t in result.model.graph.initializer})
    assert plans[0] == plans[1]
    assert len(plans[0]) == 12
    for name in ("a", "c", "d"):
        np.testing.assert_allclose(weights[1][name], weights[0][name], rtol=1e-4, atol=1e-5)
