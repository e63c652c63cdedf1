"""Inputs distilled from a model: made-up images, changed until the model's own running statistics fit them.

Yin et al. 2020, "Dreaming to Distill" (CVPR), with dead leaves to start from instead of noise: what the
BatchNormalizations remember of the training data is matched layer by layer, outputs are asked to be sure and spread
over all classes, and neighbouring pixels to stay alike.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxprune import cache
from onnxprune.calibration.inputs import is_image
from onnxprune.calibration.norm_moments import Norm, norms_behind
from onnxprune.calibration.source import Source
from onnxprune.calibration.synthetic import SyntheticSource
from onnxprune.errors import BadInput
from onnxprune.graph import Array
from onnxprune.runtime import subgraph

if TYPE_CHECKING:
    import torch

STEPS, RATE = 40, 0.1
"""Of Adam; the rate is a share of the images' deviation."""
SURE, SMOOTH = 0.2, 0.02
"""What sure outputs and smooth images count beside the statistics."""
PASSES = 3 * STEPS
"""How many passes forward it takes to make an input: each step has one, and one back, which counts two."""


@dataclass(frozen=True, eq=False)
class Distilled:
    """The batches of a made-up source, each changed by `improve`; the same in every pass.

    What was made once lies in `kept`, a folder, for the next run.
    """

    source: SyntheticSource
    improve: Callable[[Mapping[str, Array], int], dict[str, Array]]
    kept: Path | None
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
            file = self.kept / f"{number}.npz" if self.kept is not None else None
            made = cache.read(file) if file is not None else None
            if made is None:
                made = self.improve(feeds, number)
                if file is not None:
                    cache.write(file, made)
            yield made


def distil(model: ir.Model, source: Source) -> Source:
    """The made-up source with its images fitted to the model, as far as that has BatchNormalizations behind them.

    Raises BadInput without torch, and for a model without BatchNormalizations behind an image.
    """
    if not isinstance(source, SyntheticSource):
        return source
    images = [spec.name for spec in source.specs if is_image(spec)]
    norms = norms_behind(model, images)
    if not norms:
        raise BadInput(
            "--calib distilled needs a BatchNormalization with constant statistics behind an image input, and the "
            "model has none (exporters fold them into the layers): give real inputs, or leave --calib out"
        )
    from onnxprune.torch_twin import Twin

    key = cache.key_of(model, source, STEPS, RATE, SURE, SMOOTH)
    outputs = [value.name or "" for value in model.graph.outputs]
    inputs = [value.name or "" for value in model.graph.inputs if not value.is_initializer()]
    twin = Twin(subgraph(model, inputs, [*dict.fromkeys([*(norm.value for norm in norms), *outputs])]), frozen=["*"])
    kept = None if key is None else cache.folder() / f"distilled-{key}"
    return Distilled(source, _Improver(twin, norms, images, outputs, source.seed), kept)


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

        from onnxprune.gradients.loss import logits_of

        total: torch.Tensor | float = 0.0
        for name in self.outputs:
            y = found[name]
            if y.ndim != 2 or y.shape[1] < 2 or not y.is_floating_point():
                continue
            if name not in classes:
                classes[name] = torch.from_numpy(rng.permutation(len(y)) % y.shape[1])
            total = total + torch.nn.functional.cross_entropy(logits_of(y), classes[name])
        return total


def _rough(x: "torch.Tensor") -> "torch.Tensor":
    """The mean difference of neighbours along the two longest axes."""
    axes = sorted(range(1, x.ndim), key=lambda axis: x.shape[axis])[-2:]
    differences = [x.diff(dim=axis).abs().mean() for axis in axes]
    total: torch.Tensor = differences[0] + differences[-1]
    return total
