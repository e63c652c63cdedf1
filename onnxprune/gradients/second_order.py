"""The leading eigenvectors of the Hessian in each group's gates, by Hessian–vector products through the twin."""

from collections.abc import Mapping
from math import prod

import numpy as np
import torch
from torch import Tensor

from onnxprune.calibration.labelled import labels_of
from onnxprune.calibration.window import batch_of
from onnxprune.calibration.window import leading as first_samples
from onnxprune.config import Config
from onnxprune.criteria.hessian import Leading, leading
from onnxprune.criteria.scored import Scores
from onnxprune.errors import BadInput
from onnxprune.gradients.loss import Loss, is_classifier, one_thread
from onnxprune.gradients.through_gates import answers, untouched
from onnxprune.grouping import Group
from onnxprune.native import F64
from onnxprune.parallel import each
from onnxprune.passes.gates import add_gates, readings
from onnxprune.prepare import Data, Prepared
from onnxprune.progress import Tick
from onnxprune.torch_twin import Twin
from onnxprune.torch_twin.tensors import to_tensor

HELD_BYTES, COPIES = 2_000_000_000, 8
"""What the retained graphs may take, and how many numbers they hold for each of an activation's (measured: 6)."""
MOST, FEWEST = 64, 4
"""Samples that the Hessian is of."""


def score_groups(prepared: Prepared, data: Data, config: Config, tick: Tick) -> Scores:
    """For each channel of each group Σ |λ| v² over the leading eigenvectors of the Hessian in the group's gates.

    Raises BadInput where labels do not fit the model, or no gradient reaches any channel.
    """
    with one_thread():
        curvature = Curvature(prepared, data, config.seed)

        def solve(group: Group) -> Leading:
            found = curvature.leading(group, config.seed)
            tick()
            return found

        solved = each(solve, prepared.groups, lambda group: float(-int(group.units.min())))
    eigen = {group.name: one for group, one in zip(prepared.groups, solved, strict=True)}
    found = {name: one.damage() for name, one in eigen.items() if one.values.any()}
    if not found:
        raise BadInput(f"--method {config.method}: no gradient of an output reaches any channel that can go")
    notes = (answers(curvature.classifier, curvature.labelled), _convergence(eigen))
    return Scores(found, (*notes, *untouched(prepared.groups, found)))


def _convergence(eigen: Mapping[str, Leading]) -> str:
    """How many products it took, and which eigenvectors are not to be trusted."""
    steps = [one.products for one in eigen.values()]
    said = f"Power iteration took {min(steps)} to {max(steps)} Hessian–vector products a group"
    open_ = [f"{name} (off by {one.off:.2f} of an eigenvalue)" for name, one in eigen.items() if not one.settled]
    if not open_:
        return f"{said}; all eigenvectors settled."
    shown = ", ".join(open_[:3]) + (f" and {len(open_) - 3} more" if len(open_) > 3 else "")
    return f"{said}; eigenvectors that have not settled: {shown}."


class Curvature:
    """The gradients of fixed inputs in the gates, kept as graphs, so that a Hessian–vector product is one pass back."""

    def __init__(self, prepared: Prepared, data: Data, seed: int) -> None:
        """Every group of `prepared` has a gate for each of its blocks, wherever a layer reads these."""
        analysis, groups = prepared.analysis, prepared.groups
        gated = add_gates(analysis, readings(analysis, np.concatenate([group.units for group in groups])))
        twin = Twin(gated.model)
        twin.requires_grad_(False)
        labels = labels_of(data.source)
        self.labelled, self.classifier = labels is not None, False
        self._gates = {group.name: torch.ones(group.width, requires_grad=True) for group in groups}
        self._gradients: list[dict[str, Tensor]] = []
        self._samples, loss = 0, Loss(seed, labels)
        ones = torch.ones(1, analysis.units + 1)
        for feeds in first_samples(data.source, data.axes, _affordable(prepared), data.fixed_batch):
            size = batch_of(feeds, data.axes)
            given = {name: to_tensor(array) for name, array in feeds.items()}
            outputs = twin(**given, **{gated.name: self._laid(groups, ones)})
            self.classifier = is_classifier(outputs)
            self._gradients.append(self._gradient(loss(outputs, self._samples, size)))
            self._samples += size

    def leading(self, group: Group, seed: int) -> Leading:
        """The leading eigenvectors of the Hessian of the mean loss in a group's gates."""
        start = np.random.default_rng([seed, *group.name.encode()]).standard_normal(group.width)
        return leading(lambda vector: self._product(group.name, vector), start)

    def _laid(self, groups: tuple[Group, ...], ones: Tensor) -> Tensor:
        """(1, units + 1): a unit in blocks of several groups has the product of their gates."""
        gates = ones
        for group in groups:
            member, units = (torch.from_numpy(x.astype(np.int64)) for x in (group.member, group.units))
            gates = gates * ones.index_copy(1, units, self._gates[group.name][member][None])
        return gates

    def _gradient(self, loss: Tensor) -> dict[str, Tensor]:
        if not loss.requires_grad:
            return {}
        found = torch.autograd.grad(loss, list(self._gates.values()), create_graph=True, allow_unused=True)
        return {n: g for n, g in zip(self._gates, found, strict=True) if g is not None and g.requires_grad}

    def _product(self, name: str, vector: F64) -> F64:
        gates, total = self._gates[name], np.zeros(vector.size)
        along = torch.from_numpy(vector).float()
        for gradient in (own[name] for own in self._gradients if name in own):
            (image,) = torch.autograd.grad(gradient, gates, along, retain_graph=True, allow_unused=True)
            if image is not None:
                total += image.double().numpy()
        return total / max(self._samples, 1)


def _affordable(prepared: Prepared) -> int:
    """How many samples' graphs fit."""
    trace = prepared.analysis.trace
    elements = sum(prod(shape) for shape in trace.shapes.values()) / max(trace.batch, 1)
    return int(np.clip(HELD_BYTES / max(4 * COPIES * elements, 1), FEWEST, MOST))
