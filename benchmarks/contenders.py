"""Each contender takes the same model, calibration images and budget, and returns an ONNX model. None is fine-tuned."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import figures
import numpy as np
import onnx
import onnxsim
import onnxsim.pruning
import torch
import torch_pruning as tp
from resnet20 import from_onnx, to_onnx
from torch import nn

import onnxprune


@dataclass(frozen=True)
class Task:
    """The model, images as the network takes them (N, 3, 32, 32), and the share of MACs that may stay.

    `classes` are labels, for those who are given some.
    """

    model: onnx.ModelProto
    images: np.ndarray
    share: float
    classes: np.ndarray | None = None


Model = TypeVar("Model")
Contender = Callable[[Task], onnx.ModelProto]


def onnxprune_by(method: str) -> Contender:
    """This project, all options at their defaults."""

    def run(task: Task) -> onnx.ModelProto:
        result = onnxprune.compress(task.model, method=method, calib=task.images, macs=task.share, measure=False)
        return result.model

    return run


IMPORTANCES: dict[str, Callable[[], tp.importance.Importance]] = {
    "L1": lambda: tp.importance.MagnitudeImportance(p=1),
    "L2": lambda: tp.importance.MagnitudeImportance(p=2),
    "BN scale": tp.importance.BNScaleImportance,
    "LAMP": lambda: tp.importance.LAMPImportance(p=2),
    "FPGM": lambda: tp.importance.FPGMImportance(p=2),
    "Taylor": tp.importance.TaylorImportance,
    "random": tp.importance.RandomImportance,
}


def torch_pruning_by(criterion: str, spread: bool, batchnorm: bool) -> Contender:
    """Torch-Pruning: one ratio for every layer, or (`spread`) one ranking; `batchnorm` estimates it anew with data."""

    def run(task: Task) -> onnx.ModelProto:
        return to_onnx(torch_pruned(task, criterion, spread, batchnorm))

    return run


def torch_pruned(task: Task, criterion: str, spread: bool, batchnorm: bool) -> nn.Module:
    """What Torch-Pruning makes of the network within the budget."""
    return _within_budget(
        lambda ratio: _torch_pruned(task, criterion, spread, ratio, batchnorm),
        lambda module: figures.macs(to_onnx(module)),
        task,
    )


def _torch_pruned(task: Task, criterion: str, spread: bool, ratio: float, batchnorm: bool) -> nn.Module:
    torch.manual_seed(0)
    module, images = copy.deepcopy(from_onnx(task.model)), torch.from_numpy(task.images)
    pruner = tp.pruner.BasePruner(
        module,
        images[:1],
        importance=IMPORTANCES[criterion](),
        global_pruning=spread,
        pruning_ratio=ratio,
        ignored_layers=[module.fc],
    )
    if criterion == "Taylor":
        # Without labels the network's own answers stand in for them.
        for part, batch in enumerate(images.split(256)):
            logits = module(batch)
            known = task.classes is not None
            classes = torch.from_numpy(task.classes[part * 256 :][: len(batch)]) if known else logits.argmax(1)
            nn.functional.cross_entropy(logits, classes, reduction="sum").backward()
    pruner.step()
    if batchnorm:
        _estimate_batchnorm(module, images)
    return module.eval()


def _estimate_batchnorm(module: nn.Module, images: torch.Tensor) -> None:
    """Set running mean and variance to the average over the images."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        module.train()
        for batch in images.split(64):
            module(batch)


def onnxsim_by(criterion: str) -> Contender:
    """onnxsim, BatchNorm fused first as it expects; sparsity raised until the budget is met."""

    def run(task: Task) -> onnx.ModelProto:
        fused, _ = onnxsim.simplify(task.model)
        feeds = [{"input": batch} for batch in np.array_split(task.images, max(1, len(task.images) // 32))]

        def pruned(sparsity: float) -> onnx.ModelProto:
            model = copy.deepcopy(fused)
            if criterion == "Wanda":
                return onnxsim.pruning.apply_structured_wanda_pruning(model, feeds, sparsity=sparsity)
            return onnxsim.pruning.apply_structured_pruning(model, sparsity, criterion.lower())

        return _within_budget(pruned, figures.macs, task)

    return run


def _within_budget(pruned: Callable[[float], Model], macs: Callable[[Model], int], task: Task) -> Model:
    """The model of the smallest ratio that meets the budget, by bisection."""
    target, low, high, best = task.share * figures.macs(task.model), 0.0, 0.95, None
    for _ in range(7):
        middle = (low + high) / 2
        model = pruned(middle)
        if macs(model) <= target:
            high, best = middle, model
        else:
            low = middle
    if best is None:
        raise ValueError("the budget cannot be reached")
    return best


def fixed() -> Iterator[tuple[str, str, Contender]]:
    """(tool, variant, contender) that make a row each."""
    for method in ("obs", "thinet", "lasso", "magnitude"):
        yield "onnxprune", method, onnxprune_by(method)
    yield "Torch-Pruning 1.6.1", "L1, same ratio in every layer", torch_pruning_by("L1", False, False)
    yield "Torch-Pruning 1.6.1", "L1, one global ranking", torch_pruning_by("L1", True, False)
    for criterion in ("L1", "L2", "Wanda"):
        yield "onnxsim 0.8.1", criterion, onnxsim_by(criterion)


def torch_pruning_variants(batchnorm: bool) -> Iterator[tuple[str, Contender]]:
    """Every criterion both ways, of which the table shows the one that turned out best."""
    for criterion in IMPORTANCES:
        for spread in (False, True):
            name = f"{criterion}, {'one global ranking' if spread else 'same ratio in every layer'}"
            yield name, torch_pruning_by(criterion, spread, batchnorm)
