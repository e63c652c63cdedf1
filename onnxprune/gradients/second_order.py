"""The principal eigenvector of each group's weight Hessian, by Hessian–vector products through the twin."""

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from onnxprune.calibration.labelled import labels_of
from onnxprune.calibration.window import batch_of, cut
from onnxprune.config import Config
from onnxprune.criteria.hessian import Principal, principal, strengths
from onnxprune.criteria.scored import Scores
from onnxprune.errors import BadInput
from onnxprune.gradients.loss import Loss, is_classifier, one_thread
from onnxprune.gradients.through_gates import answers, untouched
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
    """For each group ‖v_k‖₁ of its channels' filters, v of one Hessian over all the layers that write the group.

    Raises BadInput where labels do not fit the model, or no gradient reaches any weight.
    """
    with one_thread():
        curvature = Curvature(prepared, data, config.seed)
        writers = {g.name: [x for x in g.writers if curvature.knows(x.weight)] for g in prepared.groups}
        names = {g.name: tuple(dict.fromkeys(x.weight.name or "" for x in writers[g.name])) for g in prepared.groups}

        def solve(weights: tuple[str, ...]) -> Principal:
            found = curvature.principal(weights, config.seed)
            tick()
            return found

        sets = [weights for weights in dict.fromkeys(names.values()) if weights]
        eigen = dict(zip(sets, each(solve, sets, curvature.depth), strict=True))
    found: dict[str, F64] = {}
    for group in prepared.groups:
        one = eigen.get(names[group.name])
        if one is not None and one.vector.any():
            vectors = curvature.split(names[group.name], one.vector)
            found[group.name] = _by_filter(group, writers[group.name], vectors, prepared)
    if not found:
        raise BadInput(f"--method {config.method}: no gradient of an output reaches the weights of any group")
    notes = (answers(curvature.classifier, curvature.labelled), *_convergence(eigen))
    return Scores(found, (*notes, *untouched(prepared.groups, found)))


def _by_filter(group: Group, writers: Sequence[Linear], vectors: dict[str, F64], prepared: Prepared) -> F64:
    position, total = group.positions(prepared.analysis.units), np.zeros(group.width)
    for linear in writers:
        matrix = to_matrix(linear, vectors[linear.weight.name or ""])
        block = position[linear.outputs.reshape(-1)]
        np.add.at(total, block[block >= 0], strengths(matrix.reshape(-1, matrix.shape[-1]))[block >= 0])
    return total


def _convergence(eigen: dict[tuple[str, ...], Principal]) -> tuple[str, ...]:
    """How many eigenvectors stand still, and which do not."""
    steps = [one.iterations for one in eigen.values()]
    said = f"Power iteration took {min(steps)} to {max(steps)} Hessian–vector products a group."
    open_ = [
        f"{names[0]} (moves by {one.moved:.1e}, |λ₂/λ₁| ≈ {min(one.ratio, 1.0):.2f})"
        for names, one in eigen.items()
        if not one.converged
    ]
    if not open_:
        return (said,)
    shown = ", ".join(open_[:3]) + (f" and {len(open_) - 3} more" if len(open_) > 3 else "")
    return (said, f"Eigenvectors that have not settled, for the two largest eigenvalues nearly tie: {shown}.")


class Curvature:
    """The gradients of a fixed set of inputs, kept as graphs, so that a Hessian–vector product is one pass back."""

    def __init__(self, prepared: Prepared, data: Data, seed: int) -> None:
        linears = [linear for group in prepared.groups for linear in group.writers]
        self._twin = Twin(prepared.analysis.model)
        held = dict(self._twin.named_parameters())
        self._weights = {n: held[n] for n in dict.fromkeys(x.weight.name or "" for x in linears) if n in held}
        for name, parameter in held.items():
            parameter.requires_grad_(name in self._weights)
        labels = labels_of(data.source)
        self.labelled, self.classifier = labels is not None, False
        self._gradients: list[dict[str, Tensor]] = []
        self._samples, loss = 0, Loss(seed, labels)
        most = _affordable(prepared)
        for feeds in data.source.batches():
            size = batch_of(feeds, data.axes)
            if not data.fixed_batch and size > most - self._samples:
                feeds = cut(feeds, data.axes, 0, most - self._samples)
                size = most - self._samples
            outputs = self._twin(**{name: to_tensor(array) for name, array in feeds.items()})
            self.classifier = is_classifier(outputs)
            self._gradients.append(self._gradient(loss(outputs, self._samples, size)))
            self._samples += size
            if self._samples >= most:
                break

    def knows(self, weight: ir.Value) -> bool:
        """Whether the weight is a parameter."""
        return weight.name in self._weights

    def principal(self, names: Sequence[str], seed: int) -> Principal:
        """The principal eigenvector of the Hessian of the mean loss over these weights, laid end to end."""
        size = sum(self._weights[name].numel() for name in names)
        start = np.random.default_rng([seed, *"".join(names).encode()]).standard_normal(size)
        return principal(self.product(names), start)

    def depth(self, names: Sequence[str]) -> float:
        """How much of the network a product with these weights goes back through, at most: the first of them tells."""
        return -float(min(list(self._weights).index(name) for name in names))

    def product(self, names: Sequence[str]) -> Callable[[F64], F64]:
        """v → Hv for these weights."""
        return lambda vector: self._product(names, vector)

    def split(self, names: Sequence[str], vector: F64) -> dict[str, F64]:
        """A vector as the weights' own shapes."""
        shapes = [tuple(self._weights[name].shape) for name in names]
        parts = np.split(vector, np.cumsum([prod(shape) for shape in shapes])[:-1])
        return {name: part.reshape(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}

    def _gradient(self, loss: Tensor) -> dict[str, Tensor]:
        if not loss.requires_grad or not self._weights:
            return {}
        weights = list(self._weights.values())
        found = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
        return {n: g for n, g in zip(self._weights, found, strict=True) if g is not None and g.requires_grad}

    def _product(self, names: Sequence[str], vector: F64) -> F64:
        vectors = self.split(names, vector)
        total = {name: torch.zeros_like(self._weights[name], dtype=torch.float64) for name in names}
        for gradients in self._gradients:
            own = [name for name in names if name in gradients]
            if not own:
                continue
            along = [torch.from_numpy(vectors[name]).to(gradients[name].dtype) for name in own]
            images = torch.autograd.grad(
                [gradients[name] for name in own],
                [self._weights[name] for name in names],
                along,
                retain_graph=True,
                allow_unused=True,
            )
            for name, image in zip(names, images, strict=True):
                if image is not None:
                    total[name] += image
        flat = torch.cat([total[name].reshape(-1) for name in names]) / max(self._samples, 1)
        return np.asarray(flat.numpy(), np.float64)


def _affordable(prepared: Prepared) -> int:
    """How many samples' graphs fit."""
    trace = prepared.analysis.trace
    elements = sum(prod(shape) for shape in trace.shapes.values()) / max(trace.batch, 1)
    return int(np.clip(HELD_BYTES / max(4 * COPIES * elements, 1), FEWEST, MOST))
