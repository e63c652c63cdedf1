"""One step after the other, by damage over what it saves."""

import numpy as np
import pytest
from removal import analysed
from topologies import TOPOLOGIES

from onnxprune.allocate import Choice
from onnxprune.costs import activation_cost
from onnxprune.greedy import cheapest_first


def _product(widths: np.ndarray) -> np.ndarray:
    """Multiply–adds of a chain 3 → w0 → w1."""
    return np.asarray(3.0 * widths[..., 0] + widths[..., 0] * widths[..., 1])


def test_each_step_takes_the_least_damage_for_what_it_saves_now() -> None:
    choices = [Choice([1, 2, 3, 4], [9, 4, 1, 0]), Choice([1, 2, 3, 4], [6, 3, 1.2, 0])]
    widths = np.array([4, 4])
    while _product(widths) > 12:
        steps = [widths - np.eye(2, dtype=int)[g] for g in range(2) if widths[g] > 1]
        ratios = []
        for step in steps:
            g = int(np.flatnonzero(step != widths)[0])
            harm = choices[g].damage[step[g] - 1] - choices[g].damage[widths[g] - 1]
            ratios.append(harm / (_product(widths) - _product(step)))
        widths = steps[int(np.argmin(ratios))]
    found = cheapest_first(choices, _product, 12, _product)
    np.testing.assert_array_equal(found, widths)
    assert _product(found) <= 12


def test_a_met_budget_leaves_everything() -> None:
    choices = [Choice([1, 2], [1, 0]), Choice([3], [0])]
    np.testing.assert_array_equal(cheapest_first(choices, _product, 100, _product), [2, 3])


@pytest.mark.parametrize("name", ["resnet-text"])
def test_activations_are_counted_as_the_trace_saw_them(name: str) -> None:
    analysis = analysed(TOPOLOGIES[name]()).analysis
    values = {slot.value for slot in analysis.slots if slot.reader is None}
    full = np.array([group.width for group in analysis.groups])
    expected = sum(np.prod(analysis.trace.shape(value)) for value in values) / analysis.trace.batch
    assert float(activation_cost(analysis)(full)) == expected
