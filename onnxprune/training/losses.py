"""Losses: nearness to a teacher's answers or to labels, or a function of the user's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.config import Config
from onnxprune.errors import BadInput
from onnxprune.graph import Array
from onnxprune.named import load_function

Named = Mapping[str, Tensor]
Loss = Callable[[Named, Named, Tensor | None], Tensor]
"""Takes outputs, the teacher's answers (both by name) and labels; returns a mean over the samples of the batch."""
SURE = 0.7
"""Scores of classes, as probabilities, have an entropy of less than this share of the largest possible."""
LEAST = 1e-12


@dataclass(frozen=True)
class Term:
    """How one output is compared: as scores or probabilities of classes, which lie on `axis`, or as plain numbers.

    Squared differences of numbers are divided by `scale`, the variance of the answers.
    """

    name: str
    kind: Literal["scores", "probabilities", "numbers"]
    scale: float = 1.0
    axis: int = 1


def terms(answers: Mapping[str, Array]) -> list[Term]:
    """Tell from answers what each output holds; those of whole numbers, which have no gradient, are left out."""
    return [_term(name, array) for name, array in answers.items() if np.issubdtype(array.dtype, np.floating)]


def _term(name: str, array: Array) -> Term:
    numbers = array.astype(np.float64)
    scale = float(np.var(numbers)) or float(np.mean(numbers**2)) or 1.0
    for axis in dict.fromkeys((1, numbers.ndim - 1)):
        if numbers.ndim >= 2 and numbers.shape[axis] > 1 and _are_probabilities(numbers, axis):
            return Term(name, "probabilities", scale, axis)
    if numbers.ndim == 2 and numbers.shape[1] > 1 and _entropy(numbers) < SURE:
        return Term(name, "scores", scale)
    return Term(name, "numbers", scale)


def _are_probabilities(numbers: Array, axis: int) -> bool:
    return bool(numbers.min() >= 0 and np.allclose(numbers.sum(axis), 1, atol=1e-3))


def _entropy(scores: Array) -> float:
    """Mean entropy of softmax, as a share of the largest possible."""
    shifted = scores - scores.max(1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return float(-(np.exp(logs) * logs).sum(1).mean() / np.log(scores.shape[1]))


def make_loss(config: Config, found: list[Term], features: list[Term]) -> Loss:
    """The loss that `--loss` names, for outputs of these kinds; `features` are matched on top of it.

    Raises BadInput where the outputs or the labels do not fit.
    """
    if config.loss == "distill":
        main = distil(found, config.temperature)
    elif config.loss == "ce":
        main = cross_entropy(found)
    elif config.loss == "mse":
        main = squared(found)
    else:
        main = load_function(config.loss, "--loss")
    if not features:
        return main
    near = distil(features, config.temperature)
    return lambda outputs, answers, labels: (
        main(outputs, answers, labels) + near(outputs, answers, labels) / len(features)
    )


def distil(found: list[Term], temperature: float) -> Loss:
    """KL divergence of classes at a temperature (Hinton et al. 2015), squared differences of numbers, summed."""
    if not found:
        raise BadInput("no output of the model is a floating-point number, so nothing has a gradient")

    def loss(outputs: Named, answers: Named, labels: Tensor | None) -> Tensor:
        apart = [_distance(term, outputs[term.name], answers[term.name], temperature) for term in found]
        return torch.stack(apart).sum()

    return loss


def _distance(term: Term, output: Tensor, answer: Tensor, temperature: float) -> Tensor:
    if term.kind == "numbers":
        return F.mse_loss(output.float(), answer.float()) / term.scale
    found, wanted = (F.log_softmax(_scores(term, x) / temperature, term.axis) for x in (output, answer))
    apart = F.kl_div(found, wanted, log_target=True, reduction="none").sum(term.axis)
    return apart.mean() * temperature**2


def _scores(term: Term, output: Tensor) -> Tensor:
    scores = output.float()
    return scores.clamp_min(LEAST).log() if term.kind == "probabilities" else scores


def cross_entropy(found: list[Term]) -> Loss:
    """Against labels that are numbers of classes. Raises BadInput where not one output alone can hold classes."""
    term = classes_of(found)
    if term is None:
        raise BadInput(f"--loss ce needs one output (N, classes); the outputs are {', '.join(t.name for t in found)}")

    def loss(outputs: Named, answers: Named, labels: Tensor | None) -> Tensor:
        if labels is None or labels.is_floating_point():
            raise BadInput("--loss ce needs whole numbers as labels: y in the .npz of --train")
        return F.cross_entropy(_scores(term, outputs[term.name]), labels.long())

    return loss


def classes_of(found: list[Term]) -> Term | None:
    """The output that holds classes: the only one, or the only one that looks so."""
    likely = [term for term in found if term.kind != "numbers" and term.axis == 1] or found
    return likely[0] if len(likely) == 1 else None


def squared(found: list[Term]) -> Loss:
    """Mean squared difference from the labels of the only output, or from the answers where there are no labels."""

    def loss(outputs: Named, answers: Named, labels: Tensor | None) -> Tensor:
        if labels is None:
            return torch.stack([F.mse_loss(outputs[t.name].float(), answers[t.name].float()) for t in found]).mean()
        if len(found) != 1:
            raise BadInput(f"--loss mse with labels needs one output, the model has {len(found)}")
        output = outputs[found[0].name]
        if output.numel() != labels.numel():
            raise BadInput(f"--loss mse: labels have shape {tuple(labels.shape)}, outputs {tuple(output.shape)}")
        return F.mse_loss(output.float(), labels.reshape(output.shape).float())

    return loss
