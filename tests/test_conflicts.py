"""Integers that several widths are written into, or that follow another: by value, and against brute force."""

from collections.abc import Iterator, Sequence
from itertools import chain, combinations

import numpy as np
import onnx_ir as ir
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.conflicts import positions
from onnxprune.labels import WHOLE, Label
from onnxprune.op_rules.facts import Fixed, Follow, Size
from onnxprune.resolve import resolve
from onnxprune.units import Constraints, Units

A = np.arange(24)
NODE = ir.node("Reshape", [], name="reshape")
quick = settings(max_examples=150, derandomize=True)


def size(atoms: np.ndarray, axis: int = 0, upto: int | None = None, pinned: bool = False) -> Size:
    return Size(NODE, 1, 0, Label(tuple(range(1, 1 + atoms.ndim)), atoms), axis, upto, (3,), pinned)


def solved(sizes: Sequence[Size], follows: Sequence[Follow] = (), *factored: np.ndarray) -> Units:
    given = Constraints([], [], sizes=sizes, follows=follows)
    return resolve(A.size, given, factored, [A])


def blocks(units: Units, atoms: np.ndarray) -> list[list[list[int]]]:
    """The atoms among these of each block of each level that has any of them."""
    own = atoms.reshape(-1)
    numbers = [(level[units.of(own)], np.unique(level[units.of(own)])) for level in units.levels]
    found = [[own[here == number].tolist() for number in every if number != WHOLE] for here, every in numbers]
    return [level for level in found if level]


def test_positions_along_an_axis_have_the_block_that_takes_all_of_each() -> None:
    grid = A[:6].reshape(2, 3)
    units = solved([], [], grid)
    rows, columns = (positions(Label((1, 2), grid), axis, units) for axis in (0, 1))
    taken = [[level[level != WHOLE].size for level in found] for found in (rows, columns)]
    assert [sum(count) for count in taken] == [2, 3]
    assert [count > 0 for count in taken[0]] != [count > 0 for count in taken[1]]


def test_an_integer_that_keeps_its_value_for_one_and_counts_another_closes_both() -> None:
    units = solved([size(A[:3]), size(A[3:6], pinned=True)])
    assert (units.of(A[:6]) == WHOLE).all()
    reasons = {units.reasons[c] for c in units.component[:6].tolist()}
    assert reasons == {"reshape takes one number in two ways"}


def test_an_integer_that_keeps_its_value_may_be_computed_from_many() -> None:
    units = solved([size(A[:3], pinned=True), size(A[3:6], pinned=True)])
    assert blocks(units, A[:6]) == [[[0], [1], [2], [3], [4], [5]]]


def test_a_number_of_columns_that_two_grids_of_other_heads_share_closes_the_columns_only() -> None:
    """(2, 3) and (3, 3) both lose heads; one number for the columns of both cannot follow either."""
    one, two = A[:6].reshape(2, 3), A[6:15].reshape(3, 3)
    units = solved([size(one, 1), size(two, 1)], [], one, two)
    assert blocks(units, one) == [[[0, 1, 2], [3, 4, 5]]]
    assert blocks(units, two) == [[[6, 7, 8], [9, 10, 11], [12, 13, 14]]]


def test_a_width_in_proportion_to_all_channels_keeps_the_heads() -> None:
    """The size of a head is computed as channels / heads: columns may go, whole heads may not."""
    grid = A[:6].reshape(2, 3)
    fact = Follow((Label((1,), A[:6]), 0), (Label((1, 2), grid), 1), 3, "")
    assert blocks(solved([], [fact], grid), grid) == [[[0, 3], [1, 4], [2, 5]]]


def test_a_number_of_heads_in_proportion_to_all_channels_keeps_the_columns() -> None:
    grid = A[:6].reshape(2, 3)
    fact = Follow((Label((1,), A[:6]), 0), (Label((1, 2), grid), 0), 2, "")
    assert blocks(solved([], [fact], grid), grid) == [[[0, 1, 2], [3, 4, 5]]]


def test_a_size_that_counts_some_positions_only_agrees_with_itself() -> None:
    first = size(A[:4], upto=2)
    assert blocks(solved([first, size(A[:4], upto=2)]), A[:4]) == [[[0], [1], [2], [3]]]
    assert blocks(solved([first, size(A[:4], upto=3)]), A[:4]) == []


def count(size: tuple[Label, int, int | None], gone: frozenset[int]) -> int:
    """How many positions along an axis of a label stay, by looking at each."""
    label, axis, upto = size
    lines = np.moveaxis(~np.isin(label.atoms, list(gone)), axis, 0)
    return int(lines.reshape(len(lines), -1).any(axis=1)[:upto].sum())


def choices(units: Units, most: int = 300) -> Iterator[frozenset[int]]:
    """Unions of the atoms of blocks of any level."""
    every = list(chain.from_iterable(blocks(units, A)))
    chosen = chain.from_iterable(combinations(every, n) for n in range(len(every) + 1))
    for _, some in zip(range(most), chosen, strict=False):
        yield frozenset(chain.from_iterable(some))


@st.composite
def places(draw: st.DrawFn, grids: Sequence[np.ndarray]) -> tuple[Label, int]:
    """An axis of one of the grids, or of all the channels of one, or of some."""
    grid = draw(st.sampled_from(grids))
    kind = draw(st.sampled_from(["grid", "flat", "repeated", "part"]))
    if kind == "grid":
        return Label(tuple(range(1, 1 + grid.ndim)), grid), draw(st.integers(0, grid.ndim - 1))
    flat = grid.reshape(-1)
    return Label((1,), {"flat": flat, "repeated": np.repeat(flat, 2), "part": flat[: flat.size // 2]}[kind]), 0


@st.composite
def constraints(draw: st.DrawFn) -> tuple[Constraints, list[np.ndarray]]:
    """A few grids of channels, numbers that two places share, numbers computed from others, and what is fixed."""
    shapes = draw(st.lists(st.sampled_from([(2, 2), (2, 3), (3, 2), (4, 1), (2, 2, 2)]), min_size=1, max_size=3))
    starts = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)])
    grids = [A[s : s + int(np.prod(shape))].reshape(shape) for s, shape in zip(starts, shapes, strict=False)]
    sizes = []
    for number in range(draw(st.integers(0, 2))):
        for label, axis in (draw(places(grids)), draw(places(grids))):
            sizes.append(Size(NODE, 1, number, label, axis))
    follows = []
    for _ in range(draw(st.integers(0, 2))):
        source, target = draw(places(grids)), draw(places(grids))
        follows.append(Follow(source, target, draw(st.integers(1, target[0].atoms.shape[target[1]])), "computed"))
    fixed = [Fixed(A[:1], "held")] if draw(st.booleans()) else []
    ties = []
    if len(grids) > 1 and grids[0].shape == grids[1].shape and draw(st.booleans()):
        ties.append((grids[0].reshape(-1), grids[1].reshape(-1)))
    return Constraints(ties, fixed, sizes=sizes, follows=follows), grids


@quick
@given(constraints())
def test_after_any_choice_of_blocks_every_integer_has_one_value(case: tuple[Constraints, list[np.ndarray]]) -> None:
    given, grids = case
    factored = [grid for grid in grids if grid.ndim > 1]
    units = resolve(A.size, given, factored, [A])
    for gone in choices(units):
        if any(np.isin(grid, list(gone)).all() for grid in grids):
            continue
        assert not gone & {int(atom) for fact in given.fixed for atom in fact.atoms}
        numbers: dict[int | None, set[int]] = {}
        for fact in given.sizes:
            numbers.setdefault(fact.element, set()).add(count((fact.label, fact.axis, fact.upto), gone))
        # A number that differs from the start counts nothing that goes.
        whole: dict[int | None, set[int]] = {}
        for fact in given.sizes:
            whole.setdefault(fact.element, set()).add(count((fact.label, fact.axis, fact.upto), frozenset()))
        assert all(len(found) == 1 for element, found in numbers.items() if len(whole[element]) == 1)
        for follow in given.follows:
            source, target = (*follow.source, None), (*follow.target, follow.upto)
            before, after = ([count(end, some) for end in (source, target)] for some in (frozenset[int](), gone))
            assert before[0] * after[1] == before[1] * after[0]
