"""The principal eigenvector of each layer's weight Hessian, by Hessian–vector products through the twin."""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from onnxprune.calibration.labelled import labels_of
from onnxprune.calibration.window import batch_of, leading
from onnxprune.config import Config
from onnxprune.criteria.hessian import Principal, principal, strengths
from onnxprune.criteria.scored import Scores
from onnxprune.errors import BadInput
from onnxprune.gradients.loss import Loss, is_classifier, one_thread
from onnxprune.gradients.through_gates import answers, untouched
from onnxprune.graph import nodes_by_name
from onnxprune.grouping import Group
from onnxprune.native import F64
from onnxprune.op_rules.facts import Linear
from onnxprune.parallel import each
from onnxprune.prepare import Data, Prepared
from onnxprune.progress import Tick
from onnxprune.torch_twin import Twin
from onnxprune.torch_twin.tensors import to_tensor
from onnxprune.weights import to_matrix

HELD_BYTES, COPIES = 2_000_000_000, 8
"""What the retained graphs may take, and how many numbers they hold for each of an activation's (measured: 6)."""
MOST, FEWEST = 64, 4
"""Samples that the Hessian is of."""


def score_filters(prepared: Prepared, data: Data, config: Config, tick: Tick) -> Scores:
    """For each group ‖v_k‖₁ of its channels' filters, v of each layer's own Hessian, summed over its layers.

    Weights are those of the model as it came: a BatchNorm that is folded in scales the filters, and with them v.
    Raises BadInput where labels do not fit the model, or no gradient reaches any weight.
    """
    weights = _weights(prepared)
    with one_thread():
        curvature = Curvature(prepared, list(dict.fromkeys(weights.values())), data, config.seed)

        def solve(name: str) -> Principal:
            found = curvature.principal(name, config.seed)
            tick()
            return found

        eigen = dict(zip(curvature.names, each(solve, curvature.names, curvature.behind), strict=True))
    vectors = {name: one.vector.reshape(curvature.shape(name)) for name, one in eigen.items() if one.vector.any()}
    found: dict[str, F64] = {}
    for group in prepared.groups:
        known = [(linear, vectors[weights[linear]]) for linear in group.writers if weights.get(linear) in vectors]
        if known:
            found[group.name] = _by_filter(group, known, prepared)
    if not found:
        raise BadInput(f"--method {config.method}: no gradient of an output reaches the weights of any group")
    notes = (answers(curvature.classifier, curvature.labelled), *_convergence(eigen))
    return Scores(found, (*notes, *untouched(prepared.groups, found)))


def _weights(prepared: Prepared) -> dict[Linear, str]:
    """The name of each writing layer's weight in the model as it came; what the pre-pass added has none."""
    nodes, found = nodes_by_name(prepared.original), {}
    for linear in (linear for group in prepared.groups for linear in group.writers):
        node, index = nodes.get(linear.node.name or ""), list(linear.node.inputs).index(linear.weight)
        weight = None if node is None or index >= len(node.inputs) else node.inputs[index]
        if weight is not None:
            found[linear] = weight.name or ""
    return found


def _by_filter(group: Group, known: Sequence[tuple[Linear, F64]], prepared: Prepared) -> F64:
    position, total = group.positions(prepared.analysis.units), np.zeros(group.width)
    for linear, vector in known:
        matrix = to_matrix(linear, vector)
        block = position[linear.outputs.reshape(-1)]
        np.add.at(total, block[block >= 0], strengths(matrix.reshape(-1, matrix.shape[-1]))[block >= 0])
    return total


def _convergence(eigen: Mapping[str, Principal]) -> tuple[str, ...]:
    """How many products it took, and which eigenvectors are not to be trusted."""
    steps = [one.iterations for one in eigen.values()]
    said = f"Power iteration took {min(steps)} to {max(steps)} Hessian–vector products a layer."
    open_ = [f"{name} (|λ₂/λ₁| ≈ {one.ratio:.2f})" for name, one in eigen.items() if not one.settled]
    if not open_:
        return (said,)
    shown = ", ".join(open_[:3]) + (f" and {len(open_) - 3} more" if len(open_) > 3 else "")
    return (said, f"Eigenvectors that have not settled, as where the two largest eigenvalues nearly tie: {shown}.")


class Curvature:
    """The gradients of a fixed set of inputs, kept as graphs, so that a Hessian–vector product is one pass back."""

    def __init__(self, prepared: Prepared, names: Sequence[str], data: Data, seed: int) -> None:
        """`names` are the weights; those that are no parameters are left out."""
        twin = Twin(prepared.original)
        held = dict(twin.named_parameters())
        self._weights = {name: held[name] for name in names if name in held}
        self.names = tuple(self._weights)
        for name, parameter in held.items():
            parameter.requires_grad_(name in self._weights)
        labels = labels_of(data.source)
        self.labelled, self.classifier = labels is not None, False
        self._gradients: list[dict[str, Tensor]] = []
        self._samples, loss = 0, Loss(seed, labels)
        for feeds in leading(data.source, data.axes, _affordable(prepared), data.fixed_batch):
            size = batch_of(feeds, data.axes)
            outputs = twin(**{name: to_tensor(array) for name, array in feeds.items()})
            self.classifier = is_classifier(outputs)
            self._gradients.append(self._gradient(loss(outputs, self._samples, size)))
            self._samples += size

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a weight."""
        return tuple(self._weights[name].shape)

    def behind(self, name: str) -> float:
        """How much of the network a product goes back through, counted in layers."""
        return float(len(self.names) - self.names.index(name))

    def principal(self, name: str, seed: int) -> Principal:
        """The principal eigenvector of the Hessian of the mean loss over a weight, laid flat."""
        start = np.random.default_rng([seed, *name.encode()]).standard_normal(self._weights[name].numel())
        return principal(lambda vector: self._product(name, vector), start)

    def _gradient(self, loss: Tensor) -> dict[str, Tensor]:
        if not loss.requires_grad:
            return {}
        found = torch.autograd.grad(loss, list(self._weights.values()), create_graph=True, allow_unused=True)
        return {n: g for n, g in zip(self.names, found, strict=True) if g is not None and g.requires_grad}

    def _product(self, name: str, vector: F64) -> F64:
        weight, total = self._weights[name], np.zeros(vector.size)
        for gradient in (own[name] for own in self._gradients if name in own):
            along = torch.from_numpy(vector).to(gradient.dtype).reshape(gradient.shape)
            (image,) = torch.autograd.grad(gradient, weight, along, retain_graph=True, allow_unused=True)
            if image is not None:
                total += image.double().reshape(-1).numpy()
        return total / max(self._samples, 1)


def _affordable(prepared: Prepared) -> int:
    """How many samples' graphs fit."""
    trace = prepared.analysis.trace
    elements = sum(prod(shape) for shape in trace.shapes.values()) / max(trace.batch, 1)
    return int(np.clip(HELD_BYTES / max(4 * COPIES * elements, 1), FEWEST, MOST))
