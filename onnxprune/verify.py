"""The proof: the slim model against the wide one with the final weights scattered back, on onnxruntime."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import onnx_ir as ir

from onnxprune.bodies import first_passes
from onnxprune.dependency import Analysis, Keep
from onnxprune.errors import BadInput, ProofFailed
from onnxprune.graph import Array
from onnxprune.labels import Label
from onnxprune.model_check import require_valid
from onnxprune.passes.remove import sliced
from onnxprune.passes.scatter import scatter
from onnxprune.runtime import open_session, run
from onnxprune.serialise import PROTOBUF_END, tensor_bytes, to_bytes

TOLERANCE = {"float64": 1e-10, "float32": 1e-5, "float16": 5e-3, "bfloat16": 5e-3}
CHOOSERS = ("ArgMax", "ArgMin", "TopK", "NonMaxSuppression")
FLOOR = 1e-30

Outputs = Mapping[str, Array]


def prove(analysis: Analysis, slim: ir.Model, keep: Keep, feeds: Mapping[str, Array]) -> float:
    """The largest difference of any output, over the output's largest value.

    Where an output collapses (a sigmoid at 1e-7) that ratio is rounding alone: one that exceeds what the dtype allows
    is taken over the original model's largest value on these feeds instead, if that is larger. Where a model rounds
    (to quanta), a sum in another order may end a quantum away: models that differ are compared once more node by node,
    without the runtime's kernels for fused and blocked layers, whose order depends on the widths.

    Raises ProofFailed where it exceeds what the dtype allows all the same, an output's name, dtype or shape changed,
    infinities or NaN moved, or the slim model does not run.
    """
    wide = scatter(analysis, slim, keep)
    expected = _outputs(wide, feeds)
    try:
        if tensor_bytes(slim) < PROTOBUF_END:
            require_valid(to_bytes(slim), "the pruned model")
        found = _outputs(slim, feeds)
    except BadInput as error:
        raise ProofFailed(f"the pruned model does not run: {error}") from error
    if list(expected) != list(found):
        raise ProofFailed(f"the outputs are {list(found)}, they were {list(expected)}")
    try:
        worst = _worst(expected, found, lambda: _outputs(analysis.model, feeds))
    except ProofFailed as failed:
        try:
            expected, found = (_outputs(one, feeds, optimise=False) for one in (wide, slim))
        except BadInput:
            raise failed from None
        worst = _worst(expected, found, lambda: _outputs(analysis.model, feeds))
    return max(worst, _worst_of_bodies(analysis, wide, slim, keep, feeds))


def _worst(expected: Outputs, found: Outputs, original: Callable[[], Outputs]) -> float:
    """The largest difference over the largest value: the expected one's or, where that collapsed, the original's."""
    worst = {name: _difference(name, expected[name], found[name]) for name in expected}
    scales = {name: _largest(expected[name]) for name in expected}
    if any(worst[name] > _allowed(expected[name]) * scales[name] for name in expected):
        scales = {name: max(scales[name], _largest(array)) for name, array in original().items()}
    return max((_relative(name, worst[name] / scales[name], expected[name]) for name in expected), default=0.0)


def _worst_of_bodies(
    analysis: Analysis, wide: ir.Model, slim: ir.Model, keep: Keep, feeds: Mapping[str, Array]
) -> float:
    """Bodies are run by themselves, for these inputs take one branch only; what a body gives and stays is compared.

    A body that does not run so did not do so in the trace, and then nothing in it can go.
    """
    originals, slims = ({one.name: one for one in first_passes(m, feeds)} for m in (analysis.model, slim))
    worst = 0.0
    for name, body, given in first_passes(wide, feeds):
        try:
            expected = _staying(analysis, _outputs(body, given), keep)
        except BadInput:
            continue
        try:
            found = _outputs(slims[name].model, slims[name].feeds)
        except (BadInput, KeyError) as error:
            raise ProofFailed(f"{name} of the pruned model does not run: {error}") from error
        original = partial(_outputs, originals[name].model, originals[name].feeds)
        worst = max(worst, _worst(expected, found, original))
    return worst


def _staying(analysis: Analysis, outputs: Outputs, keep: Keep) -> Outputs:
    """Of each output the elements that stay: a body may end in channels that go."""
    labels: dict[str, list[Label]] = defaultdict(list)
    for slot in analysis.slots:
        if slot.reader is None:
            labels[slot.value.name or ""].append(slot.label)
    return {name: sliced(array, labels[name], keep) for name, array in outputs.items()}


def _outputs(model: ir.Model, feeds: Mapping[str, Array], optimise: bool = True) -> dict[str, Array]:
    """The model's outputs; where one is chosen by rank, what it is chosen from: a tie would turn on rounding."""
    before = {v.name or "" for value in model.graph.outputs for v in _chosen_from(value)}
    names = [value.name or "" for value in model.graph.outputs if not _chosen_from(value)] + sorted(before)
    inputs, outputs = (list(feeds), names) if before else (None, None)
    return run(open_session(model, inputs=inputs, outputs=outputs, optimise=optimise), feeds)


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
