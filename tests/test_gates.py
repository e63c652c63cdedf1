"""Gates at 0 remove, gates at 1 change nothing, on every network of the tests."""

import numpy as np
import onnx_ir as ir
import pytest
from dense_mask import masked_model, max_relative_difference, run
from removal import Case, analysed, masks, proto, removals
from topologies import TOPOLOGIES

from onnxprune.passes.gates import Gated, add_gates, readings

every_topology = pytest.mark.parametrize("name", TOPOLOGIES)


def _gated(case: Case) -> Gated:
    units = np.arange(case.analysis.units)
    return add_gates(case.analysis, readings(case.analysis, units))


def _outputs(gated: Gated, case: Case, gates: np.ndarray) -> dict[str, np.ndarray]:
    return dict(run(ir.to_proto(gated.model), {**case.inputs, gated.name: gates.astype(np.float32)[None]}))


@every_topology
def test_closed_gates_leave_what_masks_on_every_activation_leave(name: str) -> None:
    case = analysed(TOPOLOGIES[name]())
    gated = _gated(case)
    for removed in removals(case.analysis.groups, seed=4):
        keep = case.analysis.keep_without(removed)
        masked = run(masked_model(proto(case.analysis.model), masks(case.analysis, keep)), case.inputs)
        assert max_relative_difference(_outputs(gated, case, keep), masked) < 1e-5, removed


@every_topology
def test_open_gates_change_nothing(name: str) -> None:
    case = analysed(TOPOLOGIES[name]())
    found = _outputs(_gated(case), case, case.analysis.keep_all())
    assert max_relative_difference(found, run(proto(case.analysis.model), case.inputs)) < 1e-5
