"""Which samples a step takes and how far it goes, told by its number: a resumed run goes on the same way."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, cos, pi

import numpy as np

from onnxprune.graph import Array

MOST_JUDGES = 512


def split(count: int, share: float, batch: int | None) -> tuple[Array, Array]:
    """Samples to learn from and samples to judge with, in whole batches where the model insists on a size."""
    size = batch or 1
    judges = min(int(count * share), MOST_JUDGES) // size * size
    return np.arange(count - judges), np.arange(count - judges, count)


@dataclass(frozen=True)
class Plan:
    """Epochs of steps; in each step every one of `world` processes takes `batch` samples, and the rest is left out.

    The processes together do what one does with `world` times the batch. An epoch may end after a part of its steps.
    """

    rows: Array
    batch: int
    world: int
    epochs: int
    seed: int
    warmup: float
    part: float = 1.0

    @property
    def steps(self) -> int:
        """The steps of an epoch."""
        every = len(self.rows) // (self.batch * self.world)
        return min(every, max(1, round(every * self.part)))

    def batches(self, epoch: int, rank: int, first: int = 0) -> Iterator[Array]:
        """The samples of process `rank` in each step of an epoch, from step `first` on."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.rows)
        for step in range(first, self.steps):
            start = (step * self.world + rank) * self.batch
            yield order[start : start + self.batch]

    def rate(self, step: int) -> float:
        """The learning rate at a step of the whole run, as a share of the largest: a ramp, then half a cosine."""
        total = self.steps * self.epochs
        rising = round(self.warmup * total)
        if step < rising:
            return (step + 1) / (rising + 1)
        return 0.5 * (1 + cos(pi * (step - rising) / max(total - rising, 1)))


def plan(rows: Array, batch: int, world: int, epochs: float, seed: int, warmup: float) -> Plan:
    """The plan, with smaller batches where there are too few samples for one step.

    Of an epoch and a half two are made, of three quarters each.
    """
    whole = ceil(epochs)
    return Plan(rows, max(1, min(batch, len(rows) // world)), world, whole, seed, warmup, epochs / whole)
