"""What the steps of random graphs draw: values to read, windows that fit."""

from collections.abc import Sequence

from graph_builder import GraphBuilder, Value, window_size
from hypothesis import strategies as st

Draw = st.DrawFn
WIDTHS = st.integers(1, 8)
MOST_CHANNELS = 24
LARGEST_SIZE = 16
LARGEST_MAP_OF_TOKENS = 6


def pick(draw: Draw, builder: GraphBuilder) -> Value:
    """One of the four newest values."""
    return draw(st.sampled_from(builder.values[:-5:-1]))


def pick_two(draw: Draw, builder: GraphBuilder) -> tuple[Value, Value]:
    """Two values of one size; they may be the same."""
    first = pick(draw, builder)
    return first, draw(st.sampled_from([value for value in builder.values if value.size == first.size]))


def windows(size: int, kernels: Sequence[int]) -> st.SearchStrategy[dict[str, int]]:
    """Kernel, stride, dilation and pad that leave at least one position."""
    candidates = [
        {"kernel": kernel, "stride": stride, "dilation": dilation, "pad": pad}
        for kernel in kernels
        for stride in (1, 2)
        for dilation in (1, 2)
        for pad in range(kernel // 2 + 1)
        if window_size(size, kernel, stride, dilation, pad) >= 1
    ]
    return st.sampled_from(candidates)
