"""Images mirrored and moved: the same for one sample of one epoch in every run, however many processes share it."""

from collections.abc import Mapping, Sequence

import numpy as np

from onnxprune.calibration.images import ImageOptions
from onnxprune.calibration.inputs import is_image
from onnxprune.errors import BadInput
from onnxprune.graph import Array
from onnxprune.training.samples import Samples

PART = 8
"""A crop moves an image by up to one of so many parts of its side (4 of 32 pixels)."""


class Augment:
    """Changes the images of a batch as `ways` say; the other inputs pass."""

    def __init__(self, ways: Sequence[str], samples: Samples, image: ImageOptions, seed: int) -> None:
        self._ways, self._seed = ways, seed
        self._spatial = {
            spec.name: (2, 3) if image.channel_axis(spec) == 1 else (1, 2) for spec in samples.specs if is_image(spec)
        }
        if ways and not self._spatial:
            raise BadInput("--augment changes images, and the model takes none (rank 4, floating-point or uint8)")
        if ways and samples.labels is not None and samples.labels.ndim > 1:
            raise BadInput("--augment moves images, but not labels that have positions: leave it out")

    def __call__(self, feeds: Mapping[str, Array], rows: Array, epoch: int) -> dict[str, Array]:
        """The feeds of these samples as they are seen in an epoch."""
        if not self._ways:
            return dict(feeds)
        draws = np.stack([np.random.default_rng([self._seed, epoch, int(row)]).random(3) for row in rows])
        return {
            name: self._changed(array, draws, *self._spatial[name]) if name in self._spatial else array
            for name, array in feeds.items()
        }

    def _changed(self, images: Array, draws: Array, down: int, across: int) -> Array:
        if "flip" in self._ways:
            turned = draws[:, 0] < 0.5
            images = np.where(turned.reshape(-1, 1, 1, 1), np.flip(images, across), images)
        return _moved(images, draws[:, 1:], down, across) if "crop" in self._ways else images


def _moved(images: Array, draws: Array, down: int, across: int) -> Array:
    """Each image moved by its own draw; what comes in at an edge mirrors what lies inside of it."""
    steps = {axis: images.shape[axis] // PART for axis in (down, across)}
    margins = [(steps[axis],) * 2 if axis in steps else (0, 0) for axis in range(images.ndim)]
    padded = np.pad(images, margins, mode="reflect")
    made = np.empty_like(images)
    for number, draw in enumerate(draws):
        place: list[slice | int] = [number, *(slice(None) for _ in range(3))]
        for axis, part in zip((down, across), draw, strict=True):
            start = int(part * (2 * steps[axis] + 1))
            place[axis] = slice(start, start + images.shape[axis])
        made[number] = padded[tuple(place)]
    return made
