"""Batches are made once, in step with what is asked for, and come back as they were."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from onnxprune.calibration.recorded import Recorded


@dataclass
class Counting:
    """Three batches of random numbers, never the same twice; counts how many it made."""

    samples: int = 6
    synthetic: bool = True
    description: str = "random"
    made: int = 0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def batches(self) -> Iterator[dict[str, np.ndarray]]:
        for _ in range(3):
            self.made += 1
            yield {"x": self.rng.standard_normal((2, 3)), "ids": self.rng.integers(0, 9, (2, 1))}


def test_every_pass_yields_the_batches_of_the_first() -> None:
    source = Counting()
    recorded = Recorded(source)
    passes = [[{name: array.copy() for name, array in feeds.items()} for feeds in recorded.batches()] for _ in range(3)]
    assert source.made == len(passes[0]) == 3
    for again in passes[1:]:
        for feeds, expected in zip(again, passes[0], strict=True):
            for name, array in expected.items():
                np.testing.assert_array_equal(feeds[name], array)
                assert feeds[name].dtype == array.dtype


def test_batches_are_made_as_they_are_asked_for_by_several_readers_in_turn() -> None:
    source = Counting()
    recorded = Recorded(source)
    first, second = recorded.batches(), recorded.batches()
    a = next(first)
    assert source.made == 1
    b, c = next(second), next(second)
    assert source.made == 2
    np.testing.assert_array_equal(a["x"], b["x"])
    np.testing.assert_array_equal(next(first)["x"], c["x"])
    assert source.made == 2


def test_it_tells_of_its_source_and_of_the_disk_it_uses() -> None:
    recorded = Recorded(Counting())
    assert (recorded.samples, recorded.synthetic, recorded.description) == (6, True, "random")
    assert recorded.disk_bytes == 0
    list(recorded.batches())
    assert recorded.disk_bytes == 3 * (2 * 3 * 8 + 2 * 8)
