"""Factors in the weights of readers do what gates in front of these readers do, on every network of the tests."""

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from dense_mask import max_relative_difference, run
from graph_text import model_from_text
from removal import Case, analysed, proto, removals, together
from topologies import TOPOLOGIES

from onnxprune.passes.gates import add_gates, readings
from onnxprune.passes.remove import remove
from onnxprune.passes.scale_readers import scale_readers
from onnxprune.verify import prove


def _factors(case: Case, keep: np.ndarray) -> np.ndarray:
    """Between a half and one for about half of what stays, and zero for what goes."""
    rng = np.random.default_rng(5)
    drawn = np.where(rng.random(keep.size) < 0.5, rng.uniform(0.5, 1, keep.size), 1.0)
    drawn[-1] = 1
    return np.asarray(drawn * keep, np.float32)


def _behind_gates(case: Case, factors: np.ndarray, without: Collection[str]) -> dict[str, np.ndarray]:
    """The original's outputs behind gates: nodes that go without factors read what stays in full."""
    reads = readings(case.analysis, np.arange(case.analysis.units))
    half = add_gates(case.analysis, [read for read in reads if read.node.name not in without])
    others = [read for read in reads if read.node.name in without]
    both = add_gates(replace(case.analysis, model=half.model), others)
    gates = {half.name: factors[None], both.name: np.float32(factors > 0)[None]}
    return dict(run(ir.to_proto(both.model), {**case.inputs, **gates}))


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_scaled_weights_are_worth_gates_in_front_of_them_and_are_proved(name: str) -> None:
    case = analysed(TOPOLOGIES[name]())
    *_, drawn = *removals(case.analysis.groups, seed=6), {}
    for removed in (together(case, drawn), {}):
        keep = case.analysis.keep_without(removed)
        factors = _factors(case, keep)
        slim, without = scale_readers(case.analysis, remove(case.analysis, keep), keep, factors)
        wanted = _behind_gates(case, factors, without)
        assert max_relative_difference(run(proto(slim), case.inputs), wanted) < 1e-5
        prove(case.analysis, slim, keep, case.inputs)


def _two_layers(body: str) -> Case:
    shapes = {"a_w": (4, 6), "b_w": (6, 3), "step": np.float32(0.02)}
    return analysed(model_from_text("(float[N, 4] x) => (float[N, 3] y)", body, shapes))


def _scaled(case: Case, frozen: Collection[str] = ()) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], object]:
    keep = case.analysis.keep_all()
    factors = np.full(keep.size, 0.5)
    factors[-1] = 1
    slim, without = scale_readers(case.analysis, remove(case.analysis, keep), keep, factors, frozen)
    return run(proto(slim), case.inputs), run(proto(case.analysis.model), case.inputs), without


def test_a_frozen_reader_keeps_its_weights_and_is_named() -> None:
    case = _two_layers("h = MatMul (x, a_w)  r = Relu (h)  y = MatMul (r, b_w)")
    (name,) = [node.name or "" for node in case.analysis.model.graph if node.outputs[0].name == "y"]
    found, whole, without = _scaled(case, {name})
    np.testing.assert_array_equal(found["y"], whole["y"])
    assert without == (name,)


def test_a_weight_that_two_layers_share_is_left_alone() -> None:
    case = _two_layers(
        "h = MatMul (x, a_w)  r = Relu (h)  s = Sigmoid (h)  p = MatMul (r, b_w)  q = MatMul (s, b_w)  y = Add (p, q)"
    )
    found, whole, without = _scaled(case)
    np.testing.assert_array_equal(found["y"], whole["y"])
    assert len(without) == 2


def test_a_dequantised_weight_gets_the_nearest_quanta() -> None:
    case = _two_layers(
        """h = MatMul (x, a_w)  r = Relu (h)
        q = QuantizeLinear (b_w, step)  b = DequantizeLinear (q, step)  y = MatMul (r, b)"""
    )
    found, whole, without = _scaled(case)
    np.testing.assert_allclose(found["y"], whole["y"] / 2, atol=0.1)
    assert without == ()
