"""Parts of a source: the samples of the window, whatever the batches."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.calibration.window import Window, batch_of, cut

AXES = {"x": 0, "state": 1, "k": None}


@dataclass(frozen=True)
class Numbers:
    """Samples 0, 1, … in batches; `state` has them on its second axis, `k` on none."""

    sizes: tuple[int, ...]
    synthetic: bool = True
    description: str = "numbers"

    @property
    def samples(self) -> int:
        return sum(self.sizes)

    def batches(self) -> Iterator[dict[str, np.ndarray]]:
        start = 0
        for size in self.sizes:
            x = np.arange(start, start + size)
            yield {"k": np.array([9]), "x": x, "state": np.stack([x, -x])}
            start += size


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(0, 30), st.integers(0, 30))
def test_a_window_holds_its_samples_in_order(sizes: list[int], first: int, second: int) -> None:
    source = Numbers(tuple(sizes))
    start, stop = sorted(min(i, source.samples) for i in (first, second))
    window = Window(source, AXES, start, stop)
    batches = list(window.batches())
    assert [int(i) for feeds in batches for i in feeds["x"]] == list(range(start, stop))
    assert window.samples == stop - start
    for feeds in batches:
        np.testing.assert_array_equal(feeds["state"], np.stack([feeds["x"], -feeds["x"]]))
        assert feeds["k"].tolist() == [9]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 8), st.integers(1, 4))
def test_large_batches_come_in_parts(sizes: list[int], start: int, most: int) -> None:
    source = Numbers(tuple(sizes))
    window = Window(source, AXES, min(start, source.samples), source.samples, most)
    batches = list(window.batches())
    assert [int(i) for feeds in batches for i in feeds["x"]] == list(range(window.start, window.stop))
    assert all(batch_of(feeds, AXES) <= most for feeds in batches)
    assert all(feeds["state"].shape[1] == len(feeds["x"]) for feeds in batches)


def test_a_window_reads_no_batch_behind_its_end() -> None:
    class Ends(Numbers):
        def batches(self) -> Iterator[dict[str, np.ndarray]]:
            yield from super().batches()
            raise AssertionError("read on")

    assert len(list(Window(Ends((4, 4)), AXES, 2, 7).batches())) == 2


def test_a_window_is_described_as_its_source() -> None:
    window = Window(Numbers((4,)), AXES, 1, 3)
    assert (window.synthetic, window.description) == (True, "numbers")


def test_the_batch_is_counted_on_the_axis_that_has_it() -> None:
    feeds = next(Numbers((5,)).batches())
    assert batch_of(feeds, AXES) == 5
    assert batch_of({"state": feeds["state"]}, AXES) == 5
    assert batch_of(feeds, {"k": None}) == 1
    assert cut(feeds, AXES, 1, 3)["state"].tolist() == [[1, 2], [-1, -2]]
