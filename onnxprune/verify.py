"""The proof: the slim model against the wide one with the final weights scattered back, on onnxruntime."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from onnxprune.bodies import first_passes
from onnxprune.dependency import Analysis, Keep
from onnxprune.errors import BadInput, ProofFailed
from onnxprune.graph import Array, array_of, constants, replace_constant, values_by_name
from onnxprune.labels import Label
from onnxprune.model_check import require_valid
from onnxprune.passes.remove import sliced
from onnxprune.passes.scatter import scatter
from onnxprune.pieces import compute
from onnxprune.serialise import LARGE, skeleton, tensor_bytes, to_bytes

TOLERANCE = {"float64": 1e-10, "float32": 1e-5, "float16": 5e-3, "bfloat16": 5e-3}
CHOOSERS = ("ArgMax", "ArgMin", "TopK", "NonMaxSuppression")
PRODUCTS = 10.0
"""So many times what the dtype allows is allowed where layers became two."""
FLOOR = 1e-30
AS_LARGE = ("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "ReduceMean")
"""Operators whose results are about as large as what they read."""
RESOLUTION = {"float32": 1e-6, "float16": 1e-6, "bfloat16": 1e-6}
"""A sigmoid is computed in steps of this size at the most, also where it is as small itself."""
ROUNDINGS, MOST_ROUNDING = 4.0, 1e-3
"""A network may differ by so many times what one change of its weights' last bits does, and by no more than this."""

Outputs = Mapping[str, Array]


def prove(
    analysis: Analysis,
    slim: ir.Model,
    keep: Keep,
    feeds: Mapping[str, Array],
    solved: ir.Model | None = None,
    products: bool = False,
) -> float:
    """The largest difference of any output, over the output's largest value.

    `slim` is what will be written. Its weights stand under the analysed model's names in `solved`, where that is
    another model. With `products`, layers that became two, sums are added up in another order: `PRODUCTS` times as
    much is allowed.

    Where an output collapses (a sigmoid at 1e-7) that ratio is rounding alone: one that exceeds what the dtype allows
    is taken over the original model's largest value on these feeds instead, if that is larger; what a sigmoid reads is
    compared as well, and where its outputs are all near 0 its own rounding is let pass. A network may also blow
    rounding up: allowed is then what a change of its weights in their last bit does, up to `MOST_ROUNDING`. Where a
    model rounds (to quanta), a sum in another order may end a quantum away: models that differ are compared once more
    node by node, without the runtime's fused and blocked kernels, whose order depends on the widths.

    Raises ProofFailed where it exceeds what is allowed all the same, an output's name, dtype or shape changed,
    infinities or NaN moved, or the slim model does not run. Large models run piece by piece (docs/decisions/0016).
    """
    wide = scatter(analysis, solved or slim, keep)
    slack = PRODUCTS if products else 1.0
    return max(
        _compared(analysis, wide, slim, feeds, slack), _worst_of_bodies(analysis, wide, slim, keep, feeds, slack)
    )


def prove_same(analysis: Analysis, other: ir.Model, feeds: Mapping[str, Array]) -> float:
    """The largest difference of any output of another model from the analysed one itself, measured as `prove` does.

    Raises ProofFailed as `prove` does.
    """
    return _compared(analysis, analysis.model, other, feeds, 1.0)


def _compared(analysis: Analysis, wide: ir.Model, slim: ir.Model, feeds: Mapping[str, Array], slack: float) -> float:
    seen = analysis.trace.shapes.keys()
    squashed = _squashed(wide, slim)
    expected = _outputs(wide, feeds, seen, squashed)
    try:
        require_valid(to_bytes(slim) if tensor_bytes(slim) < LARGE else to_bytes(skeleton(slim)), "the pruned model")
        found = _outputs(slim, feeds, seen, squashed)
    except BadInput as error:
        raise ProofFailed(f"the pruned model does not run: {error}") from error
    if list(expected) != list(found):
        raise ProofFailed(f"the outputs are {list(found)}, they were {list(expected)}")
    again = _Again(
        lambda: _outputs(analysis.model, feeds, seen, squashed),
        partial(_shaken_outputs, analysis, wide, feeds, squashed),
        squashed,
        slack,
    )
    try:
        return _worst(expected, found, again)
    except ProofFailed as failed:
        if max(tensor_bytes(wide), tensor_bytes(slim)) > LARGE:
            raise
        return _worst_node_by_node(wide, slim, feeds, list(expected), again, failed)


def _worst_node_by_node(
    wide: ir.Model,
    slim: ir.Model,
    feeds: Mapping[str, Array],
    names: list[str],
    again: "_Again",
    failed: ProofFailed,
) -> float:
    def outputs(model: ir.Model) -> Outputs:
        return compute(model, feeds, names, optimise=False)

    try:
        expected, found = outputs(wide), outputs(slim)
    except BadInput:
        raise failed from None
    return _worst(expected, found, again)


@dataclass(frozen=True, eq=False)
class _Again:
    """What is run only where a difference exceeds what the dtype allows: the original, and the wide graph shaken.

    And how far that stretches: `squashed` outputs, and `slack` times the dtype's.
    """

    original: Callable[[], Outputs]
    shaken: Callable[[], Outputs]
    squashed: Mapping[str, str]
    slack: float


def _worst(expected: Outputs, found: Outputs, again: _Again) -> float:
    """The largest difference over the largest value: the expected one's or, where that collapsed, the original's."""
    worst = {name: _difference(name, expected[name], found[name]) for name in expected}
    scales = {name: _largest(expected[name]) for name in expected}
    allowed = {name: again.slack * TOLERANCE.get(str(array.dtype), 0.0) for name, array in expected.items()}
    if _exceeded(worst, scales, allowed):
        scales = {name: max(scales[name], _largest(array)) for name, array in again.original().items()}
        for name in again.squashed.keys() & scales.keys():
            scales[name] = max(scales[name], RESOLUTION.get(str(expected[name].dtype), 0.0) / (allowed[name] or 1.0))
    if _exceeded(worst, scales, allowed):
        shaken = again.shaken()
        effect = {name: ROUNDINGS * _difference(name, expected[name], shaken[name]) / scales[name] for name in expected}
        allowed = {name: max(limit, min(effect[name], MOST_ROUNDING)) for name, limit in allowed.items()}
    return max((_relative(name, worst[name] / scales[name], allowed[name]) for name in expected), default=0.0)


def _exceeded(worst: Mapping[str, float], scales: Mapping[str, float], allowed: Mapping[str, float]) -> bool:
    return any(worst[name] > limit * scales[name] for name, limit in allowed.items())


def _shaken_outputs(
    analysis: Analysis, model: ir.Model, feeds: Mapping[str, Array], squashed: Mapping[str, str]
) -> Outputs:
    weights = {linear.weight.name or "" for linear in analysis.linears}
    return _outputs(shaken(model, weights), feeds, analysis.trace.shapes.keys(), squashed)


def shaken(model: ir.Model, weights: Collection[str]) -> ir.Model:
    """The model with every number of the named weights changed in its last bit, up or down by chance."""
    model, rng = model.clone(), np.random.default_rng(0)
    for value in constants(model):
        if value.name in weights and value.dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16):
            array = array_of(value)
            signs = rng.choice(np.array([-1, 1]), array.shape)
            replace_constant(value, array * (1 + signs * float(np.finfo(array.dtype).eps)))
    return model


def _worst_of_bodies(
    analysis: Analysis, wide: ir.Model, slim: ir.Model, keep: Keep, feeds: Mapping[str, Array], slack: float
) -> float:
    """Bodies are run by themselves, for these inputs take one branch only; what a body gives and stays is compared.

    A body that does not run so did not do so in the trace, and then nothing in it can go.
    """
    seen = analysis.trace.shapes.keys()
    originals, slims = ({one.name: one for one in first_passes(m, feeds)} for m in (analysis.model, slim))
    worst = 0.0
    for name, body, given in first_passes(wide, feeds):
        squashed = _squashed(body, slims[name].model) if name in slims else {}
        try:
            expected = _staying(analysis, _outputs(body, given, seen, squashed), keep)
        except BadInput:
            continue
        try:
            found = _outputs(slims[name].model, slims[name].feeds, seen, squashed)
        except (BadInput, KeyError) as error:
            raise ProofFailed(f"{name} of the pruned model does not run: {error}") from error
        original = partial(_outputs, originals[name].model, originals[name].feeds, seen, squashed)
        moved = partial(_shaken_outputs, analysis, body, given, squashed)
        again = _Again(original, moved, squashed, slack)
        worst = max(worst, _worst(expected, found, again))
    return worst


def _staying(analysis: Analysis, outputs: Outputs, keep: Keep) -> Outputs:
    """Of each output the elements that stay: a body may end in channels that go."""
    labels: dict[str, list[Label]] = defaultdict(list)
    for slot in analysis.slots:
        if slot.reader is None:
            labels[slot.value.name or ""].append(slot.label)
    return {name: sliced(array, labels[name], keep) for name, array in outputs.items()}


def _outputs(
    model: ir.Model, feeds: Mapping[str, Array], seen: Collection[str], squashed: Mapping[str, str]
) -> dict[str, Array]:
    """The model's outputs, and what sigmoids read.

    Where one is chosen by rank, it is what it is chosen from: a tie would turn on rounding.
    """
    before = {v.name or "" for value in model.graph.outputs for v in _chosen_from(value)} | set(squashed.values())
    names = [value.name or "" for value in model.graph.outputs if not _chosen_from(value)] + sorted(before)
    return compute(model, feeds, list(dict.fromkeys(names)), seen)


def _squashed(model: ir.Model, other: ir.Model) -> dict[str, str]:
    """What a sigmoid reads in both models, by the name of the output that is its result, in whatever shape."""
    found, known = {}, values_by_name(other)
    for output in model.graph.outputs:
        node = output.producer()
        while node is not None and node.op_type in AS_LARGE and node.inputs[0] is not None:
            node = node.inputs[0].producer()
        read = node.inputs[0] if node is not None and node.op_type == "Sigmoid" else None
        if read is not None and read.producer() is not None and read.name in known:
            found[output.name or ""] = read.name or ""
    return found


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


def _relative(name: str, difference: float, allowed: float) -> float:
    if difference > allowed:
        raise ProofFailed(f"output {name!r} differs by {difference:.1e} of its largest value, allowed is {allowed:.0e}")
    return difference
