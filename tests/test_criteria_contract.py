"""What every registered criterion promises, whatever it is."""

from dataclasses import replace

import numpy as np
import pytest
from criteria_problems import make_problem, without_signal
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.criteria import CRITERIA, Criterion, lookup
from onnxprune.criteria.problem import Options, Problem, Reader, Selection
from onnxprune.errors import BadInput

every_criterion = pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA.keys())


def _assert_valid(selection: Selection, problem: Problem) -> None:
    width = problem.width
    assert sorted(selection.order) == list(range(width))
    for k in range(0, width + 1, problem.row_count):
        kept = selection.keep(k)
        assert len(np.unique(kept)) == k
        assert list(kept) == sorted(kept)
        if problem.rows is not None:
            assert len(set(np.bincount(problem.rows[kept], minlength=problem.row_count))) == 1
    if selection.cost is not None:
        assert selection.cost.shape == (width + 1,)
        assert np.isfinite(selection.cost).all()
        assert (selection.cost >= 0).all()


@every_criterion
@settings(max_examples=15)
@given(data=st.data())
def test_order_and_kept_sets_are_complete_and_respect_the_rows(criterion: Criterion, data: st.DataObject) -> None:
    rows = data.draw(st.sampled_from([1, 1, 2, 3]))
    width = rows * data.draw(st.integers(1, 5))
    shape = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(0, 2))
    shapes = tuple(data.draw(st.lists(shape, min_size=1, max_size=3)))
    problem, _ = make_problem(data.draw(st.integers(0, 10**6)), width, shapes, rows)
    options = Options(norm=data.draw(st.sampled_from(["l1", "l2"])), forward=data.draw(st.booleans()))
    _assert_valid(criterion.select(problem, options), problem)


@every_criterion
def test_dead_units_go_first(criterion: Criterion) -> None:
    problem, layers = make_problem(1, 9)
    problem, _ = without_signal(problem, layers, [2, 5])
    selection = criterion.select(problem, Options())
    assert set(selection.order[:2]) == {2, 5}
    assert not {2, 5} & set(selection.keep(7))


@every_criterion
def test_the_same_problem_gives_the_same_selection(criterion: Criterion) -> None:
    problem, _ = make_problem(2, 10)
    first, second = criterion.select(problem, Options()), criterion.select(problem, Options())
    np.testing.assert_array_equal(first.order, second.order)


@every_criterion
def test_a_reader_without_a_gram_matrix_counts_with_its_variances(criterion: Criterion) -> None:
    problem, _ = make_problem(3, 8)
    wide = problem.readers[0]
    variance = np.where(wide.channel == 6, 1e6, wide.variances())
    mixed = replace(problem, readers=(replace(wide, moments=None, variance=variance), problem.readers[1]))
    selection = criterion.select(mixed, Options())
    _assert_valid(selection, mixed)
    if criterion.needs_data:
        assert 6 in selection.keep(1)


@every_criterion
def test_a_group_without_data_or_readers_is_still_ranked(criterion: Criterion) -> None:
    problem, _ = make_problem(4, 6)
    blind = replace(problem, readers=tuple(Reader(r.name, r.weight, None, r.channel) for r in problem.readers))
    unread = replace(problem, readers=())
    for bare in (blind, unread):
        _assert_valid(criterion.select(bare, Options()), bare)


@every_criterion
def test_a_silent_output_does_not_divide_by_zero(criterion: Criterion) -> None:
    problem, layers = make_problem(5, 4)
    silent, _ = without_signal(problem, layers, [0, 1, 2, 3])
    _assert_valid(criterion.select(silent, Options()), silent)


def test_a_width_that_does_not_divide_over_the_rows_is_refused() -> None:
    problem, _ = make_problem(6, 6, rows=2)
    selection = CRITERIA["random"].select(problem, Options())
    with pytest.raises(ValueError, match="cannot keep 3 of 6 units in 2 equal parts"):
        selection.keep(3)
    with pytest.raises(ValueError, match="cannot keep 8"):
        selection.keep(8)


def test_an_unknown_name_offers_the_nearest_ones() -> None:
    assert lookup("obs").name == "obs"
    with pytest.raises(BadInput, match="no method 'laso': did you mean lasso"):
        lookup("laso")
    with pytest.raises(BadInput, match="random or magnitude"):
        lookup("zzzzz")


def test_random_depends_on_the_seed_and_the_group() -> None:
    problem, _ = make_problem(7, 40)
    select = CRITERIA["random"].select
    orders = {
        tuple(select(other, Options()).order)
        for other in (problem, replace(problem, seed=8), replace(problem, group="other"))
    }
    assert len(orders) == 3


@pytest.mark.parametrize(("norm", "power"), [("l1", 1), ("l2", 2)])
def test_magnitude_ranks_by_the_norm_of_the_writers_rows(norm: str, power: int) -> None:
    problem, _ = make_problem(8, 12)
    expected = np.argsort(np.linalg.norm(problem.writers[0].weight, ord=power, axis=1))
    np.testing.assert_array_equal(CRITERIA["magnitude"].select(problem, Options(norm=norm)).order, expected)


def test_magnitude_falls_back_on_the_readers_columns() -> None:
    problem, layers = make_problem(9, 7, ((2, 3, 1),))
    sums = [np.abs(layers[0].weight[:, layers[0].channel == unit]).sum() for unit in range(7)]
    order = CRITERIA["magnitude"].select(replace(problem, writers=()), Options()).order
    np.testing.assert_array_equal(order, np.argsort(sums))


def test_magnitude_refuses_an_unknown_norm() -> None:
    problem, _ = make_problem(10, 3)
    with pytest.raises(BadInput, match="use l1 or l2"):
        CRITERIA["magnitude"].select(problem, Options(norm="l3"))
