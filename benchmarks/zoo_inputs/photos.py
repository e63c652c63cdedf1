"""Photographs: crops, turned and lit anew, of those that scikit-image and scikit-learn ship."""

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from zoo_inputs.request import Array, Missing, Request

SHIPPED = {
    "skimage": "astronaut chelsea coffee rocket hubble_deep_field ihc motorcycle_left retina camera coins grass moon",
    "sklearn": "china flower",
}
FACES = "lfw_subset.npy"
CAFFE_MEAN = np.array([104, 117, 123], np.float32)  # BGR


def caffe(request: Request) -> Array:
    """(N, 224, 224, 3) BGR less the mean, 0 to 255."""
    return crops(request, 224)[..., ::-1].astype(np.float32) - CAFFE_MEAN


def grey_scans(request: Request) -> Array:
    """(N, 240, 240, 3) without colour, 0 to 1."""
    grey = crops(request, 240).mean(-1, keepdims=True)
    return np.repeat(grey, 3, -1).astype(np.float32) / 255


def unit_range(request: Request) -> Array:
    """(N, 3, 320, 320) RGB, 0 to 1."""
    return np.ascontiguousarray(crops(request, 320).transpose(0, 3, 1, 2), dtype=np.float32) / 255


def mtcnn_scenes(request: Request) -> Array:
    """(N, 96, 96, 3), −1 to 1."""
    return (crops(request, 96).astype(np.float32) - 127.5) / 128


def mtcnn_faces(request: Request) -> Array:
    """(N, side, side, 3), −1 to 1: half are faces, as the networks behind the first see them."""
    side = int(request.dims(next(iter(request.inputs)))[1])
    scenes = crops(request, side)
    faces = request.mine(list(np.load(_folder("skimage") / "data" / FACES)[:100]))
    for row in range(0, len(scenes), 2):
        face = Image.fromarray(np.uint8(faces[request.rng.integers(len(faces))] * 255))
        scenes[row] = np.asarray(_lit(face.resize((side, side)).convert("RGB"), request.rng))
    return (scenes.astype(np.float32) - 127.5) / 128


def crops(request: Request, side: int) -> Array:
    """(N, side, side, 3) uint8, RGB."""
    held = request.mine(photographs())
    return np.stack([np.asarray(_crop(held[i % len(held)], side, request.rng)) for i in range(request.count)])


@cache
def photographs() -> list[Image.Image]:
    """All photographs, those with colour first. Raises Missing."""
    found = []
    for package, names in SHIPPED.items():
        inside = {"skimage": "data", "sklearn": "datasets/images"}[package]
        files = {path.stem: path for path in (_folder(package) / inside).glob("*.*g")}
        found += [Image.open(files[name]).convert("RGB") for name in names.split() if name in files]
    return found


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise Missing("photographs come with scikit-image and scikit-learn: pip install -e '.[zoo-inputs]'")
    return Path(spec.origin).parent


def _crop(photograph: Image.Image, side: int, rng: np.random.Generator) -> Image.Image:
    width, height = photograph.size
    extent = int(min(width, height) * rng.uniform(0.3, 1.0))
    left, top = (int(rng.integers(0, size - extent + 1)) for size in (width, height))
    part = photograph.crop((left, top, left + extent, top + extent)).resize((side, side), Image.Resampling.BILINEAR)
    return _lit(part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part, rng)


def _lit(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    brighter = ImageEnhance.Brightness(image).enhance(rng.uniform(0.7, 1.3))
    return ImageEnhance.Contrast(brighter).enhance(rng.uniform(0.7, 1.3))
