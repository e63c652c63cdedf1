"""The proof: the slim model against the wide one with the final weights scattered back, on onnxruntime."""

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from onnxprune.dependency import Analysis, Keep
from onnxprune.errors import BadInput, ProofFailed
from onnxprune.graph import Array
from onnxprune.model_check import require_valid
from onnxprune.passes.scatter import scatter
from onnxprune.pieces import compute
from onnxprune.serialise import LARGE, skeleton, tensor_bytes, to_bytes

TOLERANCE = {"float64": 1e-10, "float32": 1e-5, "float16": 5e-3, "bfloat16": 5e-3}
CHOOSERS = ("ArgMax", "ArgMin", "TopK", "NonMaxSuppression")
FLOOR = 1e-30


def prove(analysis: Analysis, slim: ir.Model, keep: Keep, feeds: Mapping[str, Array]) -> float:
    """The largest difference of any output, over the output's largest value.

    Where an output collapses (a sigmoid at 1e-7) that ratio is rounding alone: one that exceeds what the dtype allows
    is taken over the original model's largest value on these feeds instead, if that is larger.

    Raises ProofFailed where it exceeds what the dtype allows all the same, an output's name, dtype or shape changed,
    infinities or NaN moved, or the slim model does not run. Large models run piece by piece (docs/decisions/0016).
    """
    seen = analysis.trace.shapes.keys()
    expected = _outputs(scatter(analysis, slim, keep), feeds, seen)
    try:
        require_valid(to_bytes(slim) if tensor_bytes(slim) < LARGE else to_bytes(skeleton(slim)), "the pruned model")
        found = _outputs(slim, feeds, seen)
    except BadInput as error:
        raise ProofFailed(f"the pruned model does not run: {error}") from error
    if list(expected) != list(found):
        raise ProofFailed(f"the outputs are {list(found)}, they were {list(expected)}")
    worst = {name: _difference(name, expected[name], found[name]) for name in expected}
    scales = {name: _largest(expected[name]) for name in expected}
    if any(worst[name] > _allowed(expected[name]) * scales[name] for name in expected):
        original = _outputs(analysis.model, feeds, seen)
        scales = {name: max(scale, _largest(original[name])) for name, scale in scales.items()}
    return max((_relative(name, worst[name] / scales[name], expected[name]) for name in expected), default=0.0)


def _outputs(model: ir.Model, feeds: Mapping[str, Array], seen: Collection[str]) -> dict[str, Array]:
    """The model's outputs; where one is chosen by rank, what it is chosen from: a tie would turn on rounding."""
    before = {v.name or "" for value in model.graph.outputs for v in _chosen_from(value)}
    names = [value.name or "" for value in model.graph.outputs if not _chosen_from(value)] + sorted(before)
    return compute(model, feeds, names, seen)


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
    """The largest difference of any finite element."""
    if expected.shape != found.shape or expected.dtype != found.dtype:
        raise ProofFailed(f"output {name!r} is {found.dtype}{found.shape}, it was {expected.dtype}{expected.shape}")
    a, b = expected.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        raise ProofFailed(f"output {name!r} has infinities or NaN in other places")
    return float(np.max(np.abs(a[finite] - b[finite]), initial=0.0))


def _largest(output: Array) -> float:
    """The largest magnitude of any finite element."""
    finite = output[np.isfinite(output.astype(np.float64))]
    return max(float(np.max(np.abs(finite.astype(np.float64)), initial=0.0)), FLOOR)


def _allowed(output: Array) -> float:
    return TOLERANCE.get(str(output.dtype), 0.0)


def _relative(name: str, difference: float, expected: Array) -> float:
    if difference > _allowed(expected):
        raise ProofFailed(
            f"output {name!r} differs by {difference:.1e} of its largest value, allowed is {_allowed(expected):.0e}"
        )
    return difference
