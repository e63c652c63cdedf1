"""Which widths a group may take."""

import numpy as np
import onnx_ir as ir
import pytest
from graph_text import Weights, model_from_text
from hypothesis import given
from hypothesis import strategies as st
from removal import analysed

from onnxprune.grouping import Group
from onnxprune.op_rules.facts import Linear
from onnxprune.widths import allowed_widths, channels_per_unit, nearest_width, runtime_block


def group(width: int, rows: int = 1, lanes: int = 1) -> Group:
    units = np.arange(width)
    value = ir.Value(name="v")
    outputs = np.repeat(units, lanes)[None]
    writer = Linear(ir.node("Conv", []), "conv", value, value, None, value, 1, units[None], outputs, 1)
    cells = np.repeat(np.arange(rows), width // rows) if rows > 1 else None
    return Group("g", units, units, cells, (writer,), (), frozenset())


@pytest.mark.parametrize(
    ("width", "align", "widths"),
    [
        (6, 1, [1, 2, 3, 4, 5, 6]),
        (20, 8, [4, 8, 16, 20]),
        (40, 16, [4, 8, 16, 32, 40]),
        (7, 4, [4, 7]),
        (3, 16, [3]),
        (16, 3, [3, 6, 9, 12, 15, 16]),
    ],
)
def test_widths_are_whole_blocks_half_and_quarter_blocks_and_the_full_width(
    width: int, align: int, widths: list[int]
) -> None:
    assert allowed_widths(group(width), align) == widths


def test_rows_keep_equally_many_and_units_count_by_their_channels() -> None:
    assert allowed_widths(group(12, rows=3), 4) == [12]
    assert allowed_widths(group(24, rows=3), 4) == [12, 24]
    assert allowed_widths(group(12, rows=2), 1) == [2, 4, 6, 8, 10, 12]
    assert allowed_widths(group(10, lanes=2), 8) == [2, 4, 8, 10]
    assert channels_per_unit(group(10, lanes=2)) == 2


def test_a_unit_of_shuffled_halves_stands_for_two_channels() -> None:
    body = "h = Conv (x, h_w) a, b = Split <axis = 1> (h, parts) s = Add (a, b) y = Conv (s, y_w)"
    weights: Weights = {"h_w": (8, 3, 1, 1), "y_w": (2, 4, 1, 1), "parts": np.array([4, 4])}
    (only,) = analysed(model_from_text("(float[N,3,4,4] x) => (float[N,2,4,4] y)", body, weights)).analysis.groups
    assert (only.width, channels_per_unit(only)) == (4, 2)
    assert allowed_widths(only, 4) == [2, 4]


@given(st.integers(1, 200), st.integers(1, 32))
def test_every_width_fits_and_the_last_is_the_full_one(width: int, align: int) -> None:
    widths = allowed_widths(group(width), align)
    assert widths == sorted(set(widths)) and widths[-1] == width and widths[0] >= 1
    assert all(w % align == 0 or 2 * w == align or 4 * w == align for w in widths[:-1])


@pytest.mark.parametrize(("wanted", "width"), [(0.0, 4), (5.9, 4), (6.0, 8), (11.9, 8), (12.0, 16), (99.0, 16)])
def test_the_nearest_width_is_the_larger_of_two(wanted: float, width: int) -> None:
    assert nearest_width([4, 8, 16], wanted) == width


def test_the_block_of_this_machine() -> None:
    assert runtime_block() in (8, 16)
