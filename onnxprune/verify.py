"""The proof: the slim model against the wide one with the final weights scattered back, on onnxruntime."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxprune.dependency import Analysis, Keep
from onnxprune.errors import BadInput, ProofFailed
from onnxprune.graph import Array
from onnxprune.model_check import require_valid
from onnxprune.passes.scatter import scatter
from onnxprune.runtime import open_session, run, subgraph
from onnxprune.serialise import PROTOBUF_END, tensor_bytes, to_bytes

TOLERANCE = {"float64": 1e-10, "float32": 1e-5, "float16": 5e-3, "bfloat16": 5e-3}
CHOOSERS = ("ArgMax", "ArgMin", "TopK", "NonMaxSuppression")
FLOOR = 1e-30


def prove(analysis: Analysis, slim: ir.Model, keep: Keep, feeds: Mapping[str, Array]) -> float:
    """The largest difference of any output, over the output's largest value.

    Raises ProofFailed where it exceeds what the dtype allows, an output's name, dtype or shape changed, or the slim
    model does not run.
    """
    if tensor_bytes(slim) < PROTOBUF_END:
        require_valid(to_bytes(slim), "the pruned model")
    wide = scatter(analysis, slim, keep)
    expected = _outputs(wide, feeds)
    try:
        found = _outputs(slim, feeds)
    except BadInput as error:
        raise ProofFailed(f"the pruned model does not run: {error}") from error
    if list(expected) != list(found):
        raise ProofFailed(f"the outputs are {list(found)}, they were {list(expected)}")
    return max((_difference(name, expected[name], found[name]) for name in expected), default=0.0)


def _outputs(model: ir.Model, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The model's outputs; where one is chosen by rank, what it is chosen from: a tie would turn on rounding."""
    before = {v.name or "" for value in model.graph.outputs for v in _chosen_from(value)}
    names = [value.name or "" for value in model.graph.outputs if not _chosen_from(value)] + sorted(before)
    return run(open_session(subgraph(model, list(feeds), names) if before else model), feeds)


def _chosen_from(output: ir.Value) -> list[ir.Value]:
    """The computed inputs of the ranking operators between here and the nearest activations, if any stands there."""
    seen, pending, found = set(), [output], []
    while pending:
        node = pending.pop().producer()
        if node is None or node in seen:
            continue
        seen.add(node)
        inputs = [v for v in node.inputs if v is not None and v.const_value is None]
        if node.op_type in CHOOSERS:
            found += inputs
        elif len(seen) < 32:
            pending += inputs
    return found


def _difference(name: str, expected: Array, found: Array) -> float:
    if expected.shape != found.shape or expected.dtype != found.dtype:
        raise ProofFailed(f"output {name!r} is {found.dtype}{found.shape}, it was {expected.dtype}{expected.shape}")
    a, b = expected.astype(np.float64), found.astype(np.float64)
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        raise ProofFailed(f"output {name!r} has NaN in other places")
    difference = float(np.nanmax(np.abs(a - b), initial=0.0)) / max(float(np.nanmax(np.abs(a), initial=0.0)), FLOOR)
    allowed = TOLERANCE.get(str(expected.dtype), 0.0)
    if difference > allowed:
        raise ProofFailed(f"output {name!r} differs by {difference:.1e} of its largest value, allowed is {allowed:.0e}")
    return difference
