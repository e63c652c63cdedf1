"""Inputs distilled from a model: made-up images, changed until the model's own running statistics fit them.

Yin et al. 2020, "Dreaming to Distill" (CVPR), with dead leaves to start from instead of noise: what the BatchNormalizations
remember of the training data is matched layer by layer, outputs are asked to be as sure as for real inputs and spread over
all classes, and neighbouring pixels to stay alike.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxprune.calibration.inputs import is_image
from onnxprune.calibration.norm_moments import Norm, norms_behind
from onnxprune.calibration.synthetic import SyntheticSource
from onnxprune.graph import Array
from onnxprune.runtime import subgraph

if TYPE_CHECKING:
    import torch

STEPS, RATE = 80, 0.05
SURE, SMOOTH = 0.05, 0.02
"""What sure outputs and smooth images count beside the statistics."""


@dataclass(frozen=True, eq=False)
class Distilled:
    """The batches of a made-up source, each changed by `improve`; the same in every pass."""

    source: SyntheticSource
    improve: Callable[[Mapping[str, Array], int], dict[str, Array]]
    synthetic: bool = True

    @property
    def samples(self) -> int:
        """How many samples it holds."""
        return self.source.samples

    @property
    def description(self) -> str:
        """What the report says of the data."""
        return f"{self.source.description}; distilled from the model's BatchNorm statistics"

    def batches(self) -> Iterator[dict[str, Array]]:
        """Yield the feeds."""
        for number, feeds in enumerate(self.source.batches()):
            yield self.improve(feeds, number)


def distil(model: ir.Model, source: SyntheticSource) -> Distilled | None:
    """The source with its images fitted to the model; None for a model without BatchNormalizations behind an image.

    Raises BadInput without torch.
    """
    images = [spec.name for spec in source.specs if is_image(spec)]
    norms = norms_behind(model, images)
    if not norms:
        return None
    from onnxprune.torch_twin import Twin

    outputs = [value.name or "" for value in model.graph.outputs]
    inputs = [value.name or "" for value in model.graph.inputs if not value.is_initializer()]
    twin = Twin(subgraph(model, inputs, [*dict.fromkeys([*(norm.value for norm in norms), *outputs])]), frozen=["*"])
    return Distilled(source, _Improver(twin, norms, images, outputs, source.seed))


@dataclass(frozen=True, eq=False)
class _Improver:
    twin: "torch.nn.Module"
    norms: Sequence[Norm]
    images: Sequence[str]
    outputs: Sequence[str]
    seed: int

    def __call__(self, feeds: Mapping[str, Array], number: int) -> dict[str, Array]:
        """Change the images of one batch by Adam, whose rate falls to nothing."""
        import torch

        given = {name: torch.from_numpy(np.array(array)) for name, array in feeds.items()}
        learned = {name: given[name].requires_grad_() for name in self.images}
        spread = {name: float(tensor.detach().std()) for name, tensor in learned.items()}
        groups = [{"params": [tensor], "lr": RATE * spread[name]} for name, tensor in learned.items()]
        optimiser = torch.optim.Adam(groups, betas=(0.5, 0.9))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
        rng = np.random.default_rng((self.seed, number))
        classes: dict[str, Any] = {}
        for _ in range(STEPS):
            optimiser.zero_grad()
            found = self.twin(**given)
            loss = self._apart(found) + SMOOTH * sum(_rough(x) / spread[name] for name, x in learned.items())
            loss = loss + SURE * self._unsure(found, classes, rng)
            loss.backward()
            optimiser.step()
            schedule.step()
        return {name: tensor.detach().numpy() for name, tensor in given.items()}

    def _apart(self, found: Mapping[str, "torch.Tensor"]) -> "torch.Tensor":
        """How far the statistics are, as in `batchnorm_match.divergence`."""
        import torch

        apart = []
        for norm in self.norms:
            x = found[norm.value]
            variance, mean = torch.var_mean(x.transpose(0, 1).flatten(1), 1, correction=0)
            scale = torch.from_numpy(norm.variance + norm.epsilon).to(x.dtype)
            ratio = (variance + norm.epsilon) / scale
            shift = (mean - torch.from_numpy(norm.mean).to(x.dtype)) ** 2 / scale
            apart.append(torch.log1p((ratio - 1 - torch.log(ratio) + shift) / 2).mean())
        return torch.stack(apart).mean()

    def _unsure(
        self, found: Mapping[str, "torch.Tensor"], classes: dict[str, Any], rng: np.random.Generator
    ) -> "torch.Tensor | float":
        """Cross entropy with classes that are dealt out evenly: outputs that are sure, and not all of the same."""
        import torch

        total: torch.Tensor | float = 0.0
        for name in self.outputs:
            y = found[name]
            if y.ndim != 2 or y.shape[1] < 2 or not y.is_floating_point():
                continue
            if name not in classes:
                classes[name] = torch.from_numpy(rng.permutation(len(y)) % y.shape[1])
            logits = torch.log(y.clamp_min(1e-12)) if _probabilities(y) else y
            total = total + torch.nn.functional.cross_entropy(logits, classes[name])
        return total


def _probabilities(y: "torch.Tensor") -> bool:
    rows = y.detach().sum(1)
    return bool((y.detach() >= 0).all() and (rows - 1).abs().max() < 1e-3)


def _rough(x: "torch.Tensor") -> "torch.Tensor":
    """The mean difference of neighbours along the two longest axes."""
    axes = sorted(range(1, x.ndim), key=lambda axis: x.shape[axis])[-2:]
    differences = [x.diff(dim=axis).abs().mean() for axis in axes]
    total: torch.Tensor = differences[0] + differences[-1]
    return total
