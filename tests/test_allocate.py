"""Widths under a budget: it is met, and what it costs is near the least that is possible."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.allocate import Choice, least_damage, uniform
from onnxprune.errors import BudgetNotMet

THREE = [[1, 2, 3, 4], [2, 4, 6, 8], [4, 8, 12]]


def chain(widths: np.ndarray) -> np.ndarray:
    """Multiply–adds of a chain of layers, 3 inputs and 5 outputs at its ends: neighbours are coupled."""
    every = np.concatenate([np.full((*widths.shape[:-1], 1), 3), widths, np.full((*widths.shape[:-1], 1), 5)], -1)
    return np.asarray((every[..., 1:] * every[..., :-1]).sum(-1), np.float64)


def summed(widths: np.ndarray) -> np.ndarray:
    return np.asarray(widths.sum(-1), np.float64)


def shared(widths: np.ndarray) -> np.ndarray:
    return summed(widths) / 12


def total(choices: list[Choice], widths: np.ndarray) -> float:
    return sum(c.damage[list(c.widths).index(int(w))] for c, w in zip(choices, widths, strict=True))


def best(choices: list[Choice], cost: object, target: float) -> float:
    every = [np.array(w) for w in itertools.product(*(c.widths for c in choices))]
    return min(total(choices, w) for w in every if cost(w) <= target)  # type: ignore[operator]


def test_uniform_takes_the_smallest_share_that_meets_the_target() -> None:
    candidates = [list(range(1, 9)), list(range(1, 17))]
    assert uniform(candidates, summed, 24).tolist() == [8, 16]
    assert uniform(candidates, summed, 12).tolist() == [4, 8]
    assert uniform(candidates, summed, 2).tolist() == [1, 1]
    assert uniform([[4, 8], [4, 8, 12, 16]], summed, 16).tolist() == [4, 12]


def test_uniform_does_not_let_all_groups_fall_where_some_are_enough() -> None:
    assert uniform([[8, 16], [8, 16], [8, 16]], summed, 40).tolist() == [16, 16, 8]
    assert uniform([[8, 16], [8, 16], [8, 16]], summed, 39).tolist() == [16, 8, 8]


@given(st.floats(0.05, 1))
def test_uniform_meets_every_target_it_can(share: float) -> None:
    target = share * chain(np.array([4, 8, 12]))
    if target >= chain(np.array([1, 2, 4])):
        assert chain(uniform(THREE, chain, target)) <= target
    else:
        with pytest.raises(BudgetNotMet):
            uniform(THREE, chain, target)


@pytest.mark.parametrize("allocate", ["uniform", "least"])
def test_a_target_out_of_reach_tells_what_remains(allocate: str) -> None:
    told = r"the budget of 0\.250 .* cannot be reached: .*least width 0\.333 remain.*inspect.*--align 1"
    with pytest.raises(BudgetNotMet, match=told):
        if allocate == "uniform":
            uniform([[2, 6], [2, 6]], shared, 0.25)
        else:
            least_damage([Choice([2, 6], [1.0, 0.0]), Choice([2, 6], [1.0, 0.0])], shared, 0.25)


def convex(widths: list[int], scale: float, power: float) -> Choice:
    return Choice(widths, [scale * (1 - w / widths[-1]) ** power for w in widths])


@settings(max_examples=60, derandomize=True)
@given(st.lists(st.tuples(st.floats(0.01, 10), st.floats(1, 4)), min_size=3, max_size=3), st.floats(0.15, 1))
def test_the_damage_is_near_the_least_possible_and_the_budget_is_met(
    shapes: list[tuple[float, float]], share: float
) -> None:
    choices = [convex(w, scale, power) for w, (scale, power) in zip(THREE, shapes, strict=True)]
    for cost in (chain, summed):
        target = max(share * cost(np.array([4, 8, 12])), cost(np.array([1, 2, 4])))
        widths = least_damage(choices, cost, target)
        assert cost(widths) <= target
        assert total(choices, widths) <= 1.5 * best(choices, cost, target) + 1e-9
        assert all(w in c.widths for w, c in zip(widths, choices, strict=True))


def test_a_free_budget_leaves_everything() -> None:
    choices = [convex(w, 1.0, 2.0) for w in THREE]
    assert least_damage(choices, chain, float(chain(np.array([4, 8, 12])))).tolist() == [4, 8, 12]


def test_width_goes_where_it_does_no_harm() -> None:
    choices = [convex([2, 4, 6, 8], 1e-6, 2.0), convex([2, 4, 6, 8], 1.0, 2.0)]
    assert least_damage(choices, summed, 10).tolist() == [2, 8]


def test_damage_that_is_not_monotone_is_no_trap() -> None:
    choices = [Choice([1, 2, 3], [0.5, 0.9, 0.0]), Choice([1, 2, 3], [0.1, 0.4, 0.0])]
    assert least_damage(choices, summed, 4).tolist() == [3, 1]


def test_a_single_width_is_taken_as_it_is() -> None:
    assert least_damage([Choice([5], [0.0]), Choice([1, 2], [1.0, 0.0])], summed, 6).tolist() == [5, 1]


@pytest.mark.parametrize("unit", [1e28, 1.0, 1e-20])
def test_what_damage_is_counted_in_does_not_matter(unit: float) -> None:
    choices = [convex([2, 4, 6, 8], unit, 2.0), convex([2, 4, 6, 8], 3 * unit, 1.5)]
    assert least_damage(choices, summed, 10).tolist() == [2, 8]


def test_a_plateau_is_crossed() -> None:
    """No single step from the least widths lowers the damage, two do."""
    choices = [Choice([1, 2, 3, 4], [1.0, 1.0, 1.0, 0.2]), Choice([10, 90], [0.5, 0.0])]
    assert least_damage(choices, summed, 20).tolist() == [4, 10]
