"""Labels through reshapes and transposes, with values and against brute force."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.labels import WHOLE, Label, Labels, atoms_of, on, reshaped, touching, transposed


def one(axis: int, width: int, first: int = 0) -> Label:
    return Label((axis,), np.arange(first, first + width))


def plain(labels: Labels) -> dict[tuple[int, ...], list]:
    return {label.axes: label.atoms.tolist() for label in labels}


def carried(labels: list[Label], before: tuple[int, ...], after: tuple[int, ...]) -> dict[tuple[int, ...], list]:
    kept, lost = reshaped(tuple(labels), before, after)
    assert lost == ()
    return plain(kept)


def test_flattening_repeats_an_atom_over_the_positions_it_spans() -> None:
    assert carried([one(1, 2)], (3, 2, 2, 1), (3, 4)) == {(1,): [0, 0, 1, 1]}
    assert carried([one(3, 2)], (3, 1, 2, 2), (3, 4)) == {(1,): [0, 1, 0, 1]}


def test_splitting_an_axis_spreads_its_atoms_over_two_row_major() -> None:
    assert carried([one(1, 6)], (2, 6, 5), (2, 2, 3, 5)) == {(1, 2): [[0, 1, 2], [3, 4, 5]]}


def test_splitting_off_what_the_atoms_do_not_vary_over_leaves_one_axis() -> None:
    assert carried([Label((1,), np.array([0, 0, 1, 1]))], (3, 4), (3, 2, 2)) == {(1,): [0, 1]}
    assert carried([Label((1,), np.array([0, 1, 0, 1]))], (3, 4), (3, 2, 2)) == {(2,): [0, 1]}


def test_shuffled_channels_come_back_on_one_axis_in_their_new_order() -> None:
    kept, _ = reshaped((one(1, 6),), (2, 6), (2, 2, 3))
    assert carried(list(transposed(kept, [0, 2, 1])), (2, 3, 2), (2, 6)) == {(1,): [0, 3, 1, 4, 2, 5]}


def test_axes_of_size_one_come_and_go() -> None:
    assert carried([one(1, 4)], (2, 4, 1, 1), (2, 4)) == {(1,): [0, 1, 2, 3]}
    assert carried([one(1, 4)], (2, 4), (2, 1, 4, 1)) == {(2,): [0, 1, 2, 3]}
    assert carried([one(0, 4)], (4,), (1, 4, 1)) == {(1,): [0, 1, 2, 3]}


def test_a_single_atom_stays_on_the_widest_axis() -> None:
    assert carried([one(1, 1, 7)], (2, 1, 3), (2, 3)) == {(1,): [7, 7, 7]}


def test_two_labels_in_separate_runs_pass_and_in_one_run_the_larger() -> None:
    both = [one(0, 2), one(2, 3, 10)]
    assert carried(both, (2, 5, 3), (2, 1, 5, 3)) == {(0,): [0, 1], (3,): [10, 11, 12]}
    assert carried(both, (2, 2, 3), (2, 6)) == {(0,): [0, 1], (1,): [10, 11, 12, 10, 11, 12]}
    kept, lost = reshaped((one(0, 2), one(1, 3, 10)), (2, 3), (6,))
    assert plain(kept) == {(0,): [10, 11, 12, 10, 11, 12]}
    assert plain(lost) == {(0,): [0, 1]}


def test_the_only_position_of_an_axis_that_goes_is_lost() -> None:
    kept, lost = reshaped((one(1, 1),), (3, 1), (3,))
    assert (kept, plain(lost)) == ((), {(1,): [0]})


def test_nothing_passes_an_empty_tensor() -> None:
    kept, lost = reshaped((one(1, 3),), (0, 3), (3, 0))
    assert (kept, len(lost)) == ((), 1)


def test_transposing_a_factored_label_transposes_its_atoms() -> None:
    label = Label((0, 2), np.array([[0, 1, 2], [3, 4, 5]]))
    assert plain(transposed((label,), [2, 0, 1])) == {(0, 1): [[0, 3], [1, 4], [2, 5]]}


def test_lookups() -> None:
    labels = (one(1, 2), Label((2, 3), np.zeros((2, 2), np.int64)))
    assert atoms_of(labels, 1, 2).tolist() == [0, 1]
    assert atoms_of(labels, 2, 2).tolist() == [WHOLE, WHOLE]
    assert touching(labels, [3]) == labels[1:]
    assert on(1, np.array([WHOLE, WHOLE])) == ()


def factorings(size: int) -> list[tuple[int, ...]]:
    found = [(size,)]
    for first in range(1, size + 1):
        if size % first == 0:
            rest = size // first
            found += [(first, rest)] + [(first, a, rest // a) for a in range(1, rest + 1) if rest % a == 0]
    return found


@given(st.sampled_from([12, 8, 6, 16]).flatmap(lambda n: st.tuples(*[st.sampled_from(factorings(n))] * 2)), st.data())
def test_each_position_keeps_its_atom_through_any_reshape(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], data: st.DataObject
) -> None:
    before, after = shapes
    axis = data.draw(st.integers(0, len(before) - 1))
    kept, lost = reshaped((one(axis, before[axis]),), before, after)
    if lost:  # the only position of an axis of size one
        assert (kept, before[axis]) == ((), 1)
        return

    def spread(labels: Labels, shape: tuple[int, ...]) -> np.ndarray:
        (label,) = labels
        dims = [d if a in label.axes else 1 for a, d in enumerate(shape)]
        return np.broadcast_to(label.atoms.reshape(dims), shape).reshape(-1)

    assert spread(kept, after).tolist() == spread((one(axis, before[axis]),), before).tolist()
