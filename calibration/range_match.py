"""Guess what the values of made-up images mean to a model that does not say: the range in which its layers work."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnxprune.calibration.inputs import InputSpec, fixed_batch, is_image
from onnxprune.calibration.norm_moments import moments, open_moments
from onnxprune.calibration.synthetic import SyntheticSource
from onnxprune.graph import Array

# Centre and spread to try where the graph does not say what values mean.
RANGES = {
    (0.0, 1.0): "standardised",
    (0.0, 0.5): "-1..1",
    (0.45, 0.25): "0..1",
    (0.0, 64.0): "bytes less their mean",
    (127.5, 64.0): "bytes",
}

_DEFAULT = (0.0, 1.0)
_IMAGES = 4
# A smaller gain is what a range twice too narrow may bring, or any where biases hardly matter: no reason to guess.
_BETTER = 1 / 0.85
_SMALLEST = 1e-12
_OPSET = 7

_LAYERS = frozenset({"Conv", "ConvTranspose"})
_ACTIVATIONS = frozenset(
    {"Relu", "LeakyRelu", "PRelu", "Clip", "Elu", "Selu", "Celu", "Gelu", "Mish", "Softplus", "ThresholdedRelu"}
    | {"HardSwish", "Sigmoid", "HardSigmoid", "Tanh"}
)
_ELEMENTWISE = _ACTIVATIONS | {"Add", "Sub", "Mul", "Div", "Sum", "Identity", "BatchNormalization"}
_PLANEWISE = _ELEMENTWISE | {"MaxPool", "AveragePool", "Concat", "Resize", "Pad", "InstanceNormalization"}
_POOLS = frozenset({"GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"})


def match_range(model: ir.Model, source: SyntheticSource) -> SyntheticSource:
    """Return the source with the range of values in which the model's activations work best, where that is clear.

    Tries each of `RANGES` on a few images, for image inputs whose range the graph leaves open. A model without
    convolutions followed by activations, and one that works hardly better in any other range, keeps the default.
    Raises BadInput where onnxruntime cannot run the model.
    """
    tried = ranged(source.specs)
    values = preactivations(model) if len(tried) > 1 else []
    if not values:
        return source
    session = open_moments(model, values)

    def score(specs: tuple[InputSpec, ...]) -> float:
        return liveliness(moments(session, few(replace(source, specs=specs), _IMAGES).batches()).each)

    scores = {kind: score(specs) for kind, specs in tried.items()}
    best = max(scores, key=lambda kind: scores[kind])
    if scores[best] <= _BETTER * scores[_DEFAULT]:
        return source
    description = f"{source.description}; dead leaves, value range guessed: {RANGES[best]}"
    return replace(source, specs=tried[best], description=description)


def liveliness(found: Iterable[tuple[Array, Array]]) -> float:
    """Judge the mean and variance (C,) of each layer's pre-activations, from 0 (dead) to 1, at any scale of the layers.

    The part of a unit's mean square that varies, averaged over units, then layers: below a network's range biases
    outweigh the signal. It is divided by the layers' typical ratio of scales: training leaves the layers at about equal
    scale, and beyond its range the first ones, where biases no longer count, are off the others'. NaN counts as 0.
    """
    alive, scales = [], []
    for mean, variance in found:
        alive.append((variance / np.maximum(variance + mean**2, _SMALLEST)).mean())
        scales.append(np.log(max(float(variance.mean()) ** 0.5, _SMALLEST)))
    total = float(np.mean(alive) * np.exp(-np.std(scales)))
    return total if np.isfinite(total) else 0.0


def preactivations(model: ir.Model) -> list[str]:
    """Name what activations read that convolutions computed: values (N, C, …) with more than one position a channel."""
    if model.graph.opset_imports.get("", _OPSET) < _OPSET:
        return []
    planes: set[int] = set()
    pooled: set[int] = set()
    names: dict[str, None] = {}
    for node in model.graph:
        into = _kind(node, planes, pooled)
        if into is not None:
            into.update(id(value) for value in node.outputs)
        if node.op_type in _ACTIVATIONS and into is planes and node.inputs[0] is not None:
            names[_unshifted(node.inputs[0]).name or ""] = None
    return list(names)


def _kind(node: ir.Node, planes: set[int], pooled: set[int]) -> set[int] | None:
    """Which set the outputs belong to; what squeeze-and-excitation computes of pooled values has no positions."""
    inputs = {id(value) for value in node.inputs}
    if node.op_type in _POOLS:
        return pooled
    if node.op_type in _PLANEWISE | _LAYERS and inputs & pooled and not inputs & planes:
        return pooled
    return planes if node.op_type in _LAYERS or (node.op_type in _PLANEWISE and inputs & planes) else None


def _unshifted(value: ir.Value) -> ir.Value:
    """What a scalar was added to: exporters write a hard swish as a Clip of x + 3, and it is x that has zero mean."""
    node = value.producer()
    if node is None or node.op_type != "Add" or len(node.inputs) != 2:
        return value
    first, second = node.inputs
    if first is None or second is None:
        return value
    for one, other in ((first, second), (second, first)):
        constant = ir.convenience.get_const_tensor(other)
        if constant is not None and constant.size == 1:
            return one
    return value


def ranged(specs: tuple[InputSpec, ...]) -> dict[tuple[float, float], tuple[InputSpec, ...]]:
    """The inputs with each range that the values of images may have; only as they are where the graph tells."""

    def told(spec: InputSpec) -> bool:
        return not is_image(spec) or spec.dtype == np.uint8 or (spec.centre, spec.spread) != _DEFAULT

    kinds = [_DEFAULT] if all(told(spec) for spec in specs) else list(RANGES)
    return {
        (centre, spread): tuple(spec if told(spec) else replace(spec, centre=centre, spread=spread) for spec in specs)
        for centre, spread in kinds
    }


def few(source: SyntheticSource, images: int) -> SyntheticSource:
    """The first images of the source, as many as asked for; whole batches where the model insists on their size."""
    fixed = fixed_batch(source.specs)
    if fixed is not None:
        return replace(source, samples=-(-images // fixed) * fixed)
    return replace(source, samples=images, batch_size=min(images, source.batch_size))
