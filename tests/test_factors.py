"""Axes spread over several: the blocks of each direction by value, and any choice of them against brute force."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.factors import Grid, directions
from onnxprune.labels import WHOLE

quick = settings(max_examples=150, derandomize=True)
SIX = np.arange(6).reshape(2, 3)


def grid(cells: object, **standing: Sequence[int]) -> Grid:
    """A grid; what stands for lines of axis 0 is given as `rows`, of axis 1 as `columns`."""
    axes = {"rows": 0, "columns": 1}
    return Grid(np.array(cells), tuple((axes[name], np.array(atoms)) for name, atoms in standing.items()))


def blocks(*grids: Grid) -> list[list[list[int]]]:
    """The units of each block of each direction."""
    return [
        [found.units[found.block == number].tolist() for number in range(found.count)] for found in directions(grids)
    ]


def test_a_grid_is_cut_along_each_of_its_axes() -> None:
    assert blocks(grid(SIX)) == [[[0, 1, 2], [3, 4, 5]], [[0, 3], [1, 4], [2, 5]]]


def test_three_axes_make_three_directions() -> None:
    found = blocks(grid(np.arange(8).reshape(2, 2, 2)))
    assert found == [[[0, 1, 2, 3], [4, 5, 6, 7]], [[0, 1, 4, 5], [2, 3, 6, 7]], [[0, 2, 4, 6], [1, 3, 5, 7]]]


def test_an_axis_of_one_position_makes_no_direction() -> None:
    assert blocks(grid([[0, 1, 2]])) == [[[0], [1], [2]]]
    assert blocks(grid([[0], [1]])) == [[[0], [1]]]


def test_a_transposed_grid_is_cut_along_the_other_axis() -> None:
    first, second = directions([grid(SIX), grid(SIX.T)])
    assert (first.lines, second.lines) == ({(0, 0), (1, 1)}, {(0, 1), (1, 0)})
    assert blocks(grid(SIX), grid(SIX.T)) == blocks(grid(SIX))


def test_grids_of_other_units_are_cut_by_themselves() -> None:
    found = blocks(grid(SIX), grid(SIX + 6))
    assert found[:2] == blocks(grid(SIX))
    assert found[2:] == [[[6, 7, 8], [9, 10, 11]], [[6, 9], [7, 10], [8, 11]]]


def test_grids_that_share_a_column_lose_rows_together_and_columns_each_by_itself() -> None:
    rows, columns = blocks(grid([[0, 1], [2, 3]]), grid([[0, 4], [2, 5]]))
    assert rows == [[0, 1, 4], [2, 3, 5]]
    assert columns == [[0, 2], [1, 3], [4, 5]]


def test_what_stands_for_rows_goes_with_them_and_joins_the_rows_of_two_grids() -> None:
    assert blocks(grid(SIX, rows=[6, 7])) == [[[0, 1, 2, 6], [3, 4, 5, 7]], [[0, 3], [1, 4], [2, 5]]]
    joined = blocks(grid(SIX, rows=[6, 7]), grid(SIX + 8, rows=[6, 7]))
    assert joined[0] == [[0, 1, 2, 6, 8, 9, 10], [3, 4, 5, 7, 11, 12, 13]]
    assert joined[1:] == [[[0, 3], [1, 4], [2, 5]], [[8, 11], [9, 12], [10, 13]]]


def test_one_stand_in_for_both_rows_leaves_the_columns_only() -> None:
    assert blocks(grid(SIX, rows=[6, 6])) == [[[0, 3], [1, 4], [2, 5]]]


def test_where_the_stand_in_of_a_row_stays_so_does_the_row() -> None:
    rows, columns = blocks(grid(np.arange(6).reshape(3, 2), rows=[6, WHOLE, 7]))
    assert rows == [[0, 1, 6], [4, 5, 7]]
    assert columns == [[0, 2, 4], [1, 3, 5]]


def test_a_vector_that_stands_for_rows_and_columns_leaves_no_direction() -> None:
    assert blocks(grid([[0, 1], [2, 3]], rows=[4, 5], columns=[4, 5])) == []


def test_a_fixed_cell_keeps_its_row_and_its_column() -> None:
    (columns,) = blocks(grid([[0, 1, WHOLE], [3, 4, 5]]))
    assert columns == [[0, 3], [1, 4]]
    assert blocks(grid([[0, WHOLE], [WHOLE, 3]])) == []


def test_rows_that_repeat_go_together() -> None:
    assert blocks(grid([[0, 1], [0, 1], [2, 3], [2, 3]])) == [[[0, 1], [2, 3]], [[0, 2], [1, 3]]]
    assert blocks(grid([[0, 1, 2], [0, 1, 2]])) == [[[0], [1], [2]]]


def test_heads_of_queries_go_with_the_head_of_keys_that_they_share() -> None:
    """Four heads of queries, two of keys, each of which two of queries read; scores (12 to 15) stand for the heads."""
    scores = [12, 13, 14, 15]
    queries, keys = [[0, 1], [2, 3], [4, 5], [6, 7]], [[8, 9], [8, 9], [10, 11], [10, 11]]
    heads, *columns = blocks(grid(queries, rows=scores), grid(keys, rows=scores), grid([[8, 9], [10, 11]]))
    assert heads == [[0, 1, 2, 3, 8, 9, 12, 13], [4, 5, 6, 7, 10, 11, 14, 15]]
    assert columns == [[[0, 2, 4, 6], [1, 3, 5, 7]], [[8, 10], [9, 11]]]


def stays_a_grid(one: Grid, gone: frozenset[int]) -> bool:
    """Whether what stays is a tensor, and what stands for a line is gone exactly where the line is."""
    stays = ~np.isin(one.cells, list(gone))
    lines = [stays.any(axis=tuple(a for a in range(stays.ndim) if a != axis)) for axis in range(stays.ndim)]
    full = np.array_equal(stays, np.logical_and.reduce(np.meshgrid(*lines, indexing="ij")))
    return full and all(np.array_equal(~np.isin(atoms, list(gone)), lines[axis]) for axis, atoms in one.standing)


def choices(parts: Sequence[list[list[int]]], most: int = 500) -> Iterator[frozenset[int]]:
    """Unions of blocks, of any directions."""
    every = [block for direction in parts for block in direction]
    for index, chosen in enumerate(chain.from_iterable(combinations(every, n) for n in range(len(every) + 1))):
        if index == most:
            return
        yield frozenset(chain.from_iterable(chosen))


def empty(one: Grid, gone: frozenset[int]) -> bool:
    return bool(np.isin(one.cells, list(gone)).all())


def subsets(units: Iterable[int]) -> Iterator[frozenset[int]]:
    own = sorted(units)
    return (frozenset(found) for n in range(len(own) + 1) for found in combinations(own, n))


def test_the_choices_of_blocks_are_all_that_leave_a_grid_a_grid() -> None:
    for one in (grid(SIX), grid(np.arange(8).reshape(2, 2, 2)), grid([[0, 1], [0, 1], [2, 3]])):
        legal = {gone for gone in subsets(np.unique(one.cells).tolist()) if stays_a_grid(one, gone)}
        assert set(choices(blocks(one))) == legal


@st.composite
def grids(draw: st.DrawFn) -> list[Grid]:
    """Up to four grids that share units in all sorts of ways."""
    found: list[Grid] = []
    for _ in range(draw(st.integers(1, 4))):
        shape = draw(st.sampled_from([(2, 2), (2, 3), (3, 2), (4, 2), (2, 2, 2)]))
        cells = np.arange(12)[: int(np.prod(shape))].reshape(shape) + draw(st.sampled_from([0, 0, 4, 12]))
        if found and draw(st.booleans()):
            cells = draw(st.sampled_from(found)).cells
        kind = draw(st.sampled_from(["as it is", "transposed", "repeated", "reversed", "reshaped", "held"]))
        cells = altered(cells, kind)
        standing = []
        for axis in range(cells.ndim):
            if draw(st.integers(0, 3)) == 0:
                first = draw(st.sampled_from([30, 30, 32]))
                standing.append((axis, np.arange(first, first + cells.shape[axis])))
        found.append(Grid(cells, tuple(standing)))
    return found


def altered(cells: np.ndarray, kind: str) -> np.ndarray:
    if kind == "transposed":
        return cells.T
    if kind == "repeated":
        return np.repeat(cells, 2, axis=0)
    if kind == "reversed":
        return cells[::-1]
    if kind == "reshaped":
        return cells.reshape(cells.shape[-1], -1)
    return np.where(cells == cells.max(), WHOLE, cells) if kind == "held" else cells


@quick
@given(grids())
def test_any_choice_of_blocks_leaves_every_grid_a_grid(found: list[Grid]) -> None:
    for gone in choices(blocks(*found)):
        if not any(empty(one, gone) for one in found):
            assert all(stays_a_grid(one, gone) for one in found), gone
