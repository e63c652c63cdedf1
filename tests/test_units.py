"""Ties, products, balance and conflicts, resolved to units."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxprune.labels import WHOLE, Label
from onnxprune.op_rules.facts import Balanced, Fixed, Follow, Lines, Size
from onnxprune.resolve import resolve
from onnxprune.units import CROSSED, SPLIT, Constraints, Units, classes_of

A = np.arange(24)


def solved(count: int, given: Constraints, *factored: np.ndarray, places: list[np.ndarray] | None = None) -> Units:
    return resolve(count, given, factored, places or [np.arange(count)])


def parts(units: Units, count: int) -> list[list[int]]:
    """The atoms of each unit."""
    return [np.flatnonzero(units.of(A[:count]) == unit).tolist() for unit in range(units.count)]


def test_tied_atoms_share_a_unit_whatever_the_order_of_the_ties() -> None:
    ties = [(A[0:2], A[2:4]), (A[2:4], A[4:6])]
    assert parts(solved(6, Constraints(ties, [])), 6) == [[0, 2, 4], [1, 3, 5]]
    assert parts(solved(6, Constraints(ties[::-1], [])), 6) == [[0, 2, 4], [1, 3, 5]]


def test_what_is_tied_to_a_fixed_atom_stays_for_the_first_reason() -> None:
    given = Constraints([(A[0:2], A[2:4])], [Fixed(A[1:2], "first"), Fixed(A[3:4], "second")])
    units = solved(4, given)
    assert units.of(A[:4]).tolist() == [0, WHOLE, 0, WHOLE]
    assert units.reasons[int(units.component[3])] == "first"


def test_what_is_tied_to_a_position_without_channel_stays() -> None:
    units = solved(3, Constraints([(A[0:2], np.array([WHOLE, 2]))], []))
    assert parts(units, 3) == [[1, 2]]
    assert units.reasons[int(units.component[0])] == SPLIT


def blocks(units: Units, count: int) -> list[list[list[int]]]:
    """The atoms of each block, for each level that has any."""
    numbers = [(level, np.unique(level[level != WHOLE])) for level in units.levels]
    return [
        [np.flatnonzero(level[units.of(A[:count])] == block).tolist() for block in own]
        for level, own in numbers
        if own.size
    ]


def test_a_factored_axis_loses_whole_lines_along_either_side() -> None:
    units = solved(6, Constraints([], []), A[:6].reshape(2, 3))
    assert blocks(units, 6) == [[[0, 1, 2], [3, 4, 5]], [[0, 3], [1, 4], [2, 5]]]


def test_a_square_and_its_transpose_are_cut_alike() -> None:
    square = A[:4].reshape(2, 2)
    assert blocks(solved(4, Constraints([], []), square, square.T), 4) == [[[0, 1], [2, 3]], [[0, 2], [1, 3]]]


def test_halves_of_an_axis_stay_pairs() -> None:
    """(2 heads, 6) and (2 heads, 2 halves, 3): what goes from one half goes from the other."""
    units = solved(12, Constraints([], []), A[:12].reshape(2, 6), A[:12].reshape(2, 2, 3))
    heads, pairs = blocks(units, 12)[:2]
    assert heads == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert pairs == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]


def test_what_stands_for_lines_goes_with_them_and_joins_grids() -> None:
    """Scores of 2 heads (12, 13) stand for the rows of (2, 3) queries and of (2, 3) values."""
    queries, values, scores = Label((1, 3), A[:6].reshape(2, 3)), Label((1, 3), A[6:12].reshape(2, 3)), A[12:14]
    given = Constraints([], [], lines=[Lines(queries, 0, scores), Lines(values, 0, scores)])
    units = resolve(14, given, [queries.atoms, values.atoms], [A[:14]])
    heads, *rest = blocks(units, 14)
    assert heads == [[0, 1, 2, 6, 7, 8, 12], [3, 4, 5, 9, 10, 11, 13]]
    assert sorted(block for level in rest for block in level) == [[0, 3], [1, 4], [2, 5], [6, 9], [7, 10], [8, 11]]


def test_where_what_stands_for_a_line_stays_so_does_the_line() -> None:
    queries = Label((1, 3), A[:6].reshape(2, 3))
    given = Constraints([], [Fixed(A[6:7], "read elsewhere")], lines=[Lines(queries, 0, A[6:8])])
    assert blocks(resolve(8, given, [queries.atoms], [A[:8]]), 8) == [[[0, 3], [1, 4], [2, 5]]]


def test_a_fixed_atom_closes_its_lines_only() -> None:
    units = solved(8, Constraints([], [Fixed(A[2:3], "")]), A[:8].reshape(2, 4))
    assert blocks(units, 8) == [[[0, 4], [1, 5], [3, 7]]]


def test_grids_that_share_no_lines_close_with_a_reason() -> None:
    crossed = np.array([[0, 3], [1, 2]])
    units = solved(4, Constraints([], []), A[:4].reshape(2, 2), crossed, crossed.T, np.array([[0, 1], [3, 2]]).T)
    assert {units.reasons[c] for c in units.reasons} <= {CROSSED}


def test_rows_of_equally_many_units_stay_free_and_have_cells() -> None:
    units = solved(6, Constraints([], [], [Balanced(A[:6].reshape(2, 3), "")]))
    assert units.count == 6
    assert len(set(units.cell[:3].tolist())) == len(set(units.cell[3:].tolist())) == 1
    assert units.cell[0] != units.cell[5]


def test_rows_that_hold_different_numbers_of_units_are_tied() -> None:
    given = Constraints([], [Fixed(A[0:1], "")], [Balanced(A[:6].reshape(2, 3), "")])
    assert parts(solved(6, given), 6) == [[1, 4], [2, 5]]


def test_units_that_every_row_shares_need_no_more() -> None:
    rows = np.array([[0, 1], [2, 3]])
    given = Constraints([(A[0:2], A[2:4])], [], [Balanced(rows, "")])
    assert parts(solved(4, given), 4) == [[0, 2], [1, 3]]


def test_rows_of_two_different_groups_are_tied_for_one_alone_could_not_lose() -> None:
    given = Constraints([], [], [Balanced(A[:4].reshape(2, 2), "")])
    assert parts(solved(4, given, places=[A[:4], A[:2]]), 4) == [[0, 2], [1, 3]]


def test_nested_partitions_are_balanced_on_the_finer() -> None:
    given = Constraints([], [], [Balanced(A[:8].reshape(2, 4), ""), Balanced(A[:8].reshape(4, 2), "")])
    units = solved(8, given)
    assert units.count == 8
    assert len(set(units.cell.tolist())) == 4


def test_partitions_that_do_not_nest_are_tied_until_they_do() -> None:
    crossing = np.array([[0, 3, 1], [4, 2, 5]])
    units = solved(6, Constraints([], [], [Balanced(A[:6].reshape(2, 3), ""), Balanced(crossing, "")]))
    assert units.count < 6
    _, counts = np.unique(units.cell, return_counts=True)
    assert len(set(counts.tolist())) == 1


def size(node: ir.Node, atoms: np.ndarray, upto: int | None = None) -> Size:
    return Size(node, 1, 0, Label((1,), atoms), 0, upto)


def test_one_number_for_two_widths_closes_both() -> None:
    node = ir.node("Reshape", [], name="reshape")
    alone = Constraints([], [], sizes=[size(node, A[:3]), size(node, A[:3])])
    assert solved(6, alone).count == 6
    both = Constraints([], [], sizes=[size(node, A[:3]), size(node, A[3:6])])
    assert solved(7, both).count == 1
    tied = Constraints([(A[:3], A[3:6][::-1])], [], sizes=both.sizes)
    assert solved(6, tied).count == 3


@pytest.mark.parametrize(("target", "upto", "count"), [(A[:4].repeat(3), 12, 4), (A[:4], 2, 0), (A[4:8], 4, 0)])
def test_a_computed_size_needs_the_same_share_of_each_unit(target: np.ndarray, upto: int, count: int) -> None:
    fact = Follow((Label((1,), A[:4]), 0), (Label((1,), target), 0), upto, "")
    units = solved(8, Constraints([], [], follows=[fact]))
    assert np.unique(units.of(np.append(A[:4], target))).tolist() == (list(range(count)) or [WHOLE])


def test_a_computed_half_follows_where_both_halves_lose_alike() -> None:
    halves = A[:6].reshape(2, 3)
    fact = Follow((Label((1,), A[:6]), 0), (Label((1, 2), halves), 1), 3, "")
    assert blocks(solved(6, Constraints([], [], follows=[fact]), halves), 6) == [[[0, 3], [1, 4], [2, 5]]]


def test_classes_are_the_units_that_lie_in_the_same_places() -> None:
    classes = classes_of(5, [np.array([0, 1, 2, WHOLE]), np.array([[2, 1], [1, 2]])])
    assert classes[1] == classes[2] != classes[0]
    assert classes[3] == classes[4] == -1
