"""Small random groups with the explicit rows they were measured on, for oracles that know no Gram matrix."""

from dataclasses import dataclass

import numpy as np

from onnxprune.calibration.statistics import Moments
from onnxprune.criteria.problem import Problem, Reader, Writer


@dataclass(frozen=True)
class Layer:
    """Centred rows `x` (N, F) and targets `y` (N, n) of one reader."""

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    channel: np.ndarray

    @property
    def energy(self) -> float:
        return float((self.y**2).sum() / len(self.y))

    def unit_outputs(self, width: int) -> np.ndarray:
        """(C, N, n) what each unit adds to the output."""
        masks = (self.channel == np.arange(width)[:, None]).astype(float)
        return np.stack([(self.x * mask) @ self.weight.T for mask in masks])


def make_layer(
    rng: np.random.Generator, width: int, kernel: int, outputs: int, extra: int = 0, count: int = 60, noise: float = 0.0
) -> Layer:
    features = width * kernel + extra
    x = np.maximum(rng.standard_normal((count, features)) @ rng.standard_normal((features, features)), 0)
    weight = rng.standard_normal((outputs, features))
    channel = np.concatenate([np.repeat(np.arange(width), kernel), np.full(extra, -1)])
    shuffle = rng.permutation(features)
    y = x @ weight.T + noise * rng.standard_normal((count, outputs))
    return Layer((x - x.mean(axis=0))[:, shuffle], y - y.mean(axis=0), weight[:, shuffle], channel[shuffle])


def make_reader(layer: Layer, name: str = "reader") -> Reader:
    count = len(layer.x)
    moments = Moments(
        np.zeros(layer.x.shape[1]),
        np.zeros(layer.y.shape[1]),
        layer.x.T @ layer.x / count,
        layer.x.T @ layer.y / count,
        (layer.y**2).sum(axis=0) / count,
        count,
    )
    return Reader(name, layer.weight, moments, layer.channel)


def make_problem(
    seed: int, width: int, shapes: tuple[tuple[int, int, int], ...] = ((3, 4, 0), (1, 6, 2)), rows: int = 1
) -> tuple[Problem, list[Layer]]:
    """A group with a reader for each (kernel, outputs, foreign features) of `shapes`."""
    rng = np.random.default_rng(seed)
    layers = [make_layer(rng, width, kernel, outputs, extra, noise=0.3) for kernel, outputs, extra in shapes]
    readers = tuple(make_reader(layer, f"reader{i}") for i, layer in enumerate(layers))
    writers = (Writer("writer", rng.standard_normal((width, 9))),)
    partition = np.arange(width) % rows if rows > 1 else None
    return Problem("group", width, readers, writers, partition, seed), layers


def without_signal(problem: Problem, layers: list[Layer], units: list[int]) -> tuple[Problem, list[Layer]]:
    """The same group with `units` constant at every reader."""
    silent = [
        Layer(np.where(np.isin(layer.channel, units), 0.0, layer.x), layer.y, layer.weight, layer.channel)
        for layer in layers
    ]
    readers = tuple(make_reader(layer, reader.name) for layer, reader in zip(silent, problem.readers, strict=True))
    return Problem(problem.group, problem.width, readers, problem.writers, problem.rows, problem.seed), silent
