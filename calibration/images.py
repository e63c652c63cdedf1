"""A folder of images as calibration data, decoded batch by batch."""

import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from onnxprune.calibration.bind import infer_layout, shape_text
from onnxprune.calibration.inputs import InputSpec
from onnxprune.errors import BadInput

Array = np.ndarray[Any, np.dtype[Any]]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
# Pillow's own threshold for a decompression bomb; it only warns there.
MAX_PIXELS = 89_478_485
_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class ImageOptions:
    """How 8-bit images become the model's input: (x / 255 - mean) / std, channel by channel.

    `image_size` is (height, width). `mean` and `std` hold one value, or one per channel in the order the model takes
    its channels. `layout` None is inferred from the model's shape. `channel_order` turns the images of a folder;
    arrays are taken as they are. Raises BadInput for values outside their range.
    """

    image_size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layout: Literal["nchw", "nhwc"] | None = None
    channel_order: Literal["rgb", "bgr"] = "rgb"

    def __post_init__(self) -> None:
        if self.image_size is not None and min(self.image_size) < 1:
            raise BadInput(f"--image-size {self.image_size}: height and width must be at least 1")
        if self.layout not in (None, "nchw", "nhwc"):
            raise BadInput(f"--layout {self.layout!r}: it is nchw or nhwc")
        if self.channel_order not in ("rgb", "bgr"):
            raise BadInput(f"--channel-order {self.channel_order!r}: it is rgb or bgr")
        advice = "pixels are scaled to 0..1 first, so divide values meant for 0..255 by 255"
        if not all(0 <= value <= 1 for value in self.mean or ()):
            raise BadInput(f"--mean {self.mean}: values must lie in 0..1; {advice}")
        if not all(0 < value <= 1 for value in self.std or ()):
            raise BadInput(f"--std {self.std}: values must be above 0 and at most 1; {advice}")

    @property
    def normalises(self) -> bool:
        """Whether a mean or a standard deviation was given."""
        return self.mean is not None or self.std is not None

    def channel_axis(self, spec: InputSpec) -> int:
        """The axis of a rank-4 input that holds channels."""
        return 1 if (self.layout or infer_layout(spec.shape)) == "nchw" else 3


def to_input(pixels: Array, spec: InputSpec, options: ImageOptions) -> Array:
    """Turn uint8 pixels, laid out as the input takes them, into the input's dtype: (x / 255 - mean) / std.

    Raises BadInput where mean or std has neither one value nor one for each channel.
    """
    mean = _per_channel(options.mean, 0.0, pixels, spec, options)
    std = _per_channel(options.std, 1.0, pixels, spec, options)
    return ((pixels.astype(np.float32) / np.float32(255) - mean) / std).astype(spec.dtype, copy=False)


@dataclass(frozen=True)
class ImageSource:
    """Batches of decoded images for a model with one image input; the same in every pass."""

    files: tuple[Path, ...]
    spec: InputSpec
    batch_size: int
    options: ImageOptions
    description: str
    synthetic: bool = False

    @property
    def samples(self) -> int:
        """The number of images over all batches."""
        return len(self.files)

    def batches(self) -> Iterator[dict[str, Array]]:
        """Yield feeds; raises BadInput naming the first image that cannot be decoded."""
        for start in range(0, len(self.files), self.batch_size):
            pixels = np.stack([self._pixels(path) for path in self.files[start : start + self.batch_size]])
            raw = self.spec.dtype == np.uint8
            yield {self.spec.name: pixels if raw else to_input(pixels, self.spec, self.options)}

    def _pixels(self, path: Path) -> Array:
        channels_first = self.options.channel_axis(self.spec) == 1
        _, *sizes = self.spec.shape
        channels, height, width = sizes if channels_first else (sizes[2], sizes[0], sizes[1])
        assert channels is not None and height is not None and width is not None
        pixels = _decode(path, _MODES[channels], (width, height)).reshape(height, width, channels)
        if self.options.channel_order == "bgr":
            pixels = pixels[..., ::-1]
        return np.ascontiguousarray(np.moveaxis(pixels, -1, 0) if channels_first else pixels)


def list_images(folder: Path) -> list[Path]:
    """List the images below a folder, by name. Raises BadInput where there are none."""
    found = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    if not found:
        raise BadInput(f"{folder} holds no images; files ending in {' '.join(SUFFIXES)} are read")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def image_shape(specs: list[InputSpec], options: ImageOptions) -> dict[str, tuple[int, ...]]:
    """Say which shape `--image-size` gives the model's image input, by name; nothing where it was not given.

    Raises BadInput where the model has no single image input, or one of neither 1 nor 3 channels.
    """
    if len(specs) != 1 or specs[0].rank != 4:
        shapes = ", ".join(f"{spec.name!r} {shape_text(spec.shape)}" for spec in specs)
        raise BadInput(f"a folder of images feeds a model with one input of rank 4, this one takes {shapes}: use .npz")
    spec = specs[0]
    if spec.dtype != np.uint8 and not np.issubdtype(spec.dtype, np.floating):
        raise BadInput(f"input {spec.name!r} takes {spec.dtype}, images are uint8 or float: use .npz")
    axis = options.channel_axis(spec)
    channels = spec.shape[axis] or 3
    if channels not in _MODES:
        raise BadInput(
            f"input {spec.name!r} {shape_text(spec.shape)} has {channels} channels on axis {axis}, not 1 or 3"
        )
    if options.image_size is None:
        return {}
    batch = spec.shape[0] or 1
    return {spec.name: (batch, channels, *options.image_size) if axis == 1 else (batch, *options.image_size, channels)}


def _per_channel(
    values: tuple[float, ...] | None, default: float, pixels: Array, spec: InputSpec, options: ImageOptions
) -> Array:
    axis = options.channel_axis(spec) if pixels.ndim == 4 else pixels.ndim - 1
    channels = pixels.shape[axis]
    given = (default,) if values is None else values
    if len(given) not in (1, channels):
        raise BadInput(
            f"--mean/--std have {len(given)} values, axis {axis} of input {spec.name!r} has {channels} channels"
        )
    shape = [1] * pixels.ndim
    shape[axis] = len(given)
    return np.asarray(given, np.float32).reshape(shape)


def _decode(path: Path, mode: str, size: tuple[int, int]) -> Array:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                _check_decodable(image, path)
                return np.asarray(image.convert(mode).resize(size, Image.Resampling.BILINEAR))
    except Image.DecompressionBombError as error:
        raise BadInput(f"image {path} is too large: {error}") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise BadInput(f"image {path} cannot be decoded: {error}; repair or remove it") from error


def _check_decodable(image: Image.Image, path: Path) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise BadInput(f"image {path} has {image.width} x {image.height} pixels, more than {MAX_PIXELS}: scale it down")
    if image.mode.startswith(("I", "F")):
        raise BadInput(f"image {path} has more than 8 bits a channel ({image.mode}): convert it to 8 bits, or use .npz")
