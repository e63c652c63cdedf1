"""Fit made-up images to a model by the running statistics that its BatchNormalizations keep of its training data."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxprune.calibration.inputs import is_image
from onnxprune.calibration.leaves import Leaves
from onnxprune.calibration.norm_moments import Norm, moments, norms_behind, open_moments
from onnxprune.calibration.range_match import few, match_range, ranged
from onnxprune.calibration.source import Source
from onnxprune.calibration.synthetic import SyntheticSource
from onnxprune.graph import Array

_LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_DRAWS, _IMAGES = (6, 40), (4, 48)
# Elements that a search may compute whatever the model: a few seconds on two cores.
_ELEMENTS = 400_000_000
# Beyond that, the images of a search as a part of those to be made: probes make an image up to twice as dear.
_PART = 5
# A smaller gain may be that of the few pictures drawn: following it on ResNet-20 brought nothing.
_BETTER = 0.9


@dataclass(frozen=True)
class Budget:
    """A search of `draws` candidates, each judged on `images` pictures."""

    draws: int
    images: int


def match(model: ir.Model, source: Source) -> Source:
    """Return the source with the picture parameters, and the range of values, that fit the model's statistics best.

    Synthetic images are scored at the input of every BatchNormalization behind an image input whose statistics are
    constants, and the best of some seeded random draws is taken where it is clearly nearer than the default: no
    gradients, a bounded number of images. (Yin et al., "Dreaming to Distill", CVPR 2020, fit pixels to the same
    statistics.) For a model without such layers the range alone is guessed. A source of real data comes back as it is.
    Raises BadInput where onnxruntime cannot run the model.
    """
    if not isinstance(source, SyntheticSource):
        return source
    norms = norms_behind(model, [spec.name for spec in source.specs if is_image(spec)])
    if not norms:
        return match_range(model, source)
    session = open_moments(model, [norm.value for norm in norms])
    elements = moments(session, few(source, _IMAGES[0]).batches()).elements
    # Layers whose BatchNormalization was folded away are work too.
    elements *= max(1, sum(node.op_type in _LINEAR for node in model.graph) // len(norms))
    budget = plan_search(elements, source.samples)

    def distance(candidate: SyntheticSource) -> float:
        found = moments(session, few(candidate, budget.images).batches())
        return divergence(norms, found.each)

    near = min((replace(source, specs=specs) for specs in ranged(source.specs).values()), key=distance)
    best = _search(near, distance, budget.draws)
    layers = f"{len(norms)} BatchNorm layer{'s' if len(norms) > 1 else ''}"
    return replace(best, description=f"{source.description}; dead leaves, matched to {layers}")


def plan_search(elements: int, samples: int) -> Budget:
    """Say how far to search, for a model that computes `elements` an image in its layers, and `samples` to make.

    A small model gets 40 draws of 48 images; a large one so many that the search costs about half a pass over the
    samples, and at least 6 draws of 4 images.
    """
    images = max(_ELEMENTS // max(elements, 1), samples // _PART)
    each = int(np.clip(round(images**0.5), *_IMAGES))
    return Budget(int(np.clip(images // each, *_DRAWS)), each)


def divergence(norms: Iterable[Norm], found: Iterable[tuple[Array, Array]]) -> float:
    """How far means and variances (C,) are from the running statistics of each layer, as Gaussians; 0 where they agree.

    log(1 + KL), averaged over channels, then over layers: one channel that was dead in training must not outweigh the
    others. Infinite where activations are.
    """
    apart = []
    for norm, (mean, variance) in zip(norms, found, strict=True):
        scale = norm.variance + norm.epsilon
        ratio = (variance + norm.epsilon) / scale
        apart.append(np.log1p((ratio - 1 - np.log(ratio) + (mean - norm.mean) ** 2 / scale) / 2).mean())
    total = float(np.mean(apart))
    return total if np.isfinite(total) else np.inf


def _search(start: SyntheticSource, distance: Callable[[SyntheticSource], float], draws: int) -> SyntheticSource:
    """The nearest of parameters drawn anywhere and (the second half) about the best so far, if clearly nearer."""
    rng = np.random.default_rng((start.seed, draws))
    given = distance(start)
    best, lowest = start, given
    for at in range(1, draws):
        leaves = _anywhere(rng) if 2 * at < draws else _about(best.leaves, rng)
        candidate = replace(start, leaves=leaves)
        found = distance(candidate)
        if found < lowest:
            best, lowest = candidate, found
    return best if lowest < _BETTER * given else start


def _anywhere(rng: np.random.Generator) -> Leaves:
    return Leaves(
        gain=float(np.exp(rng.uniform(np.log(0.3), np.log(1.6)))),
        correlation=float(rng.choice((0.0, 0.5, 0.8, 0.9, 0.97))),
        smallest=float(rng.choice((0.03, 0.06, 0.12))),
        shapes=int(rng.choice((15, 40, 80))),
        contrast=float(rng.uniform(0, 0.5)),
    )


def _about(leaves: Leaves, rng: np.random.Generator) -> Leaves:
    gain, correlation, smallest, shapes, contrast = rng.standard_normal(5).tolist()
    return Leaves(
        gain=leaves.gain * float(np.exp(0.2 * gain)),
        correlation=min(max(leaves.correlation + 0.1 * correlation, 0.0), 0.99),
        smallest=min(max(leaves.smallest * float(np.exp(0.3 * smallest)), 0.02), 0.2),
        shapes=min(max(round(leaves.shapes * float(np.exp(0.4 * shapes))), 6), 120),
        contrast=min(max(leaves.contrast + 0.1 * contrast, 0.0), 0.7),
    )
