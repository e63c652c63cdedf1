"""Scores from the gradients of gates: one backward pass a batch tells what each channel does to each sample's loss."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from onnxprune.calibration.labelled import labels_of
from onnxprune.calibration.window import batch_of, cut
from onnxprune.config import Config
from onnxprune.criteria.scored import Scores
from onnxprune.errors import BadInput
from onnxprune.gradients.loss import Loss, is_classifier, one_thread
from onnxprune.graph import Array
from onnxprune.grouping import Group
from onnxprune.native import F64
from onnxprune.parallel import ahead
from onnxprune.passes.gates import BatchAxis, Gated, Reading, add_gates, readings
from onnxprune.prepare import Data, Prepared
from onnxprune.progress import Tick
from onnxprune.torch_twin import Twin
from onnxprune.torch_twin.tensors import to_tensor
from onnxprune.trace import trace

Sum = Callable[[F64], F64]
"""(N, C) gradients of samples to (C,) what the samples' scores add up to."""


def score_gates(prepared: Prepared, data: Data, config: Config, tick: Tick, total: Sum) -> Scores:
    """The mean over samples of what `total` makes of the gradients of each group's gates.

    Raises BadInput where labels do not fit the model, or no gradient reaches any channel.
    """
    groups, labels = prepared.groups, labels_of(data.source)
    sums, samples = {group.name: np.zeros(group.width) for group in groups}, 0
    classifier = False
    for gradients, is_one in gate_gradients(prepared, data, Loss(config.seed, labels), tick):
        for group in groups:
            sums[group.name] += total(by_block(gradients, group))
        samples += len(gradients)
        classifier = is_one
    found = {name: score / samples for name, score in sums.items() if score.any()}
    if not found:
        raise BadInput(f"--method {config.method}: no gradient of an output reaches any channel that can go")
    return Scores(found, (answers(classifier, labels is not None), *untouched(groups, found)))


def by_block(gradients: F64, group: Group) -> F64:
    """(N, width): a block's gate is the gate of all its units, so its gradient is the sum of theirs."""
    found = np.zeros((group.width, len(gradients)))
    np.add.at(found, group.member, gradients[:, group.units].T)
    return found.T


def answers(classifier: bool, labelled: bool) -> str:
    """What the loss compared the outputs with, as the report says it."""
    if not classifier:
        return "Gradients are of the squared error of residuals drawn for the outputs, for they are no classifier's."
    if labelled:
        return "Gradients are of the cross-entropy with the labels y of the calibration data."
    return "Gradients are of the cross-entropy with labels drawn from the model's own softmax: no labels were given."


def untouched(groups: Sequence[Group], found: Mapping[str, F64]) -> tuple[str, ...]:
    """What to say of groups that have no score."""
    names = [group.name for group in groups if group.name not in found]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return (f"No gradient says anything of {shown}: ranked by magnitude.",) if names else ()


def gate_gradients(prepared: Prepared, data: Data, loss: Loss, tick: Tick) -> Iterator[tuple[F64, bool]]:
    """For each batch (samples, units + 1) ∂L_n/∂gate, and whether the model is a classifier.

    Where the samples cannot be told apart in what is read, they are run one by one; those of a fixed batch together.
    """
    units = np.concatenate([group.units for group in prepared.groups])
    reads = readings(prepared.analysis, units)
    gated = add_gates(prepared.analysis, reads, batch_axes(prepared, data, reads))
    twin = Twin(gated.model)
    twin.requires_grad_(False)

    def gradient(fed: tuple[int, Mapping[str, Array]]) -> tuple[F64, bool]:
        first, feeds = fed
        size = batch_of(feeds, data.axes)
        gates = torch.ones((size if gated.per_sample else 1, prepared.analysis.units + 1), requires_grad=True)
        outputs = twin(**{name: to_tensor(array) for name, array in feeds.items()}, **{gated.name: gates})
        return _gradient(loss(outputs, first, size), gates), is_classifier(outputs)

    with one_thread():
        for found in ahead(gradient, _fed(gated, data)):
            yield found
            tick()


def _fed(gated: Gated, data: Data) -> Iterator[tuple[int, Mapping[str, Array]]]:
    """What is run together, and the number of its first sample."""
    first = 0
    for feeds in data.source.batches():
        size = batch_of(feeds, data.axes)
        if gated.per_sample or data.fixed_batch:
            yield first, feeds
        else:
            yield from ((first + i, cut(feeds, data.axes, i, i + 1)) for i in range(size))
        first += size


def _gradient(loss: Tensor, gates: Tensor) -> F64:
    (found,) = torch.autograd.grad(loss, [gates], allow_unused=True) if loss.requires_grad else (None,)
    return np.zeros(tuple(gates.shape)) if found is None else found.numpy().astype(np.float64)


def batch_axes(prepared: Prepared, data: Data, reads: Sequence[Reading]) -> BatchAxis | None:
    """The axis of each value that is read along which the samples lie, as runs on one and on several samples show it.

    None where a value has no such axis, or channels lie on it too.
    """
    several, model = prepared.analysis.trace, prepared.analysis.model
    if data.fixed_batch or several.batch < 2:
        return None
    try:
        single = trace(model, cut(data.sample, data.axes, 0, 1))
    except BadInput:
        return None
    axes: dict[ir.Value, int] = {}
    for read in reads:
        if read.value.const_value is not None or not single.knows(read.value):
            return None
        sizes = list(zip(single.shape(read.value), several.shape(read.value), strict=True))
        grown = [axis for axis, (one, more) in enumerate(sizes) if one != more]
        if len(grown) != 1 or grown[0] in read.label.axes or sizes[grown[0]] != (1, several.batch):
            return None
        axes[read.value] = grown[0]
    return axes.get
