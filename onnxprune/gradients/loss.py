"""A loss for any model: of given labels, or of answers drawn from what the model itself believes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.errors import BadInput
from onnxprune.graph import Array
from onnxprune.torch_twin import ONE_AT_A_TIME

LEAST = 1e-12
"""A probability that a softmax rounded to nothing."""


class Loss:
    """Σ_n L_n, a sum over samples and not their mean.

    For a classifier (one output, of two axes and several columns) cross-entropy; the classes are the labels where
    given, else drawn from the model's own softmax, which makes the squared gradients those of the true Fisher
    information. For other outputs half the squared error, over the output's variance, of the answer plus a residual
    drawn from a unit normal distribution: the same for a model that believes its answers right up to such noise.
    """

    def __init__(self, seed: int, labels: Array | None = None) -> None:
        """`labels` are those of all samples."""
        self._seed = seed
        self._labels = labels

    def __call__(self, outputs: Mapping[str, Tensor], first: int, samples: int) -> Tensor:
        """The loss of a batch, which begins with sample number `first`: what is drawn depends on that and the seed.

        Raises BadInput where labels name a class that the model has not.
        """
        entropy = np.random.SeedSequence([self._seed, first]).generate_state(1)
        draws = torch.Generator().manual_seed(int(entropy[0]))
        real = [y for y in outputs.values() if torch.is_tensor(y) and y.is_floating_point()]
        if is_classifier(outputs):
            labels = None if self._labels is None else self._labels[first : first + samples]
            return _cross_entropy(logits_of(real[0]), labels, draws)
        return torch.stack([_squares(y, draws) for y in real]).sum() if real else torch.zeros(())


def _cross_entropy(logits: Tensor, labels: Array | None, draws: torch.Generator) -> Tensor:
    if labels is None:
        drawn = torch.multinomial(logits.detach().double().softmax(1), 1, generator=draws)[:, 0]
        return F.cross_entropy(logits, drawn, reduction="sum")
    if np.any((labels < 0) | (labels >= logits.shape[1])):
        worst = int(labels.max() if labels.max() >= logits.shape[1] else labels.min())
        raise BadInput(f"y of --calib holds class {worst}, the model has classes 0 to {logits.shape[1] - 1}")
    return F.cross_entropy(logits, torch.from_numpy(labels), reduction="sum")


def _squares(y: Tensor, draws: torch.Generator) -> Tensor:
    answer = y.detach()
    scale = answer.double().std(correction=0).to(y.dtype)
    noise = torch.randn(y.shape, generator=draws, dtype=torch.float64).to(y.dtype)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (((y - answer) / scale - noise) ** 2).sum() / 2


def is_classifier(outputs: Mapping[str, Tensor]) -> bool:
    """Whether the only output has scores of classes."""
    y = next(iter(outputs.values()))
    return len(outputs) == 1 and torch.is_tensor(y) and y.is_floating_point() and y.ndim == 2 and y.shape[1] > 1


def logits_of(scores: Tensor) -> Tensor:
    """The logarithms of what is already probabilities, anything else as it is."""
    seen = scores.detach()
    if bool((seen >= 0).all()) and torch.allclose(seen.sum(1), torch.ones_like(seen[:, 0]), atol=1e-3):
        return scores.clamp_min(LEAST).log()
    return scores


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold each operator to one thread: threads of a small one meet at a barrier, pieces side by side do not."""
    with ONE_AT_A_TIME:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
