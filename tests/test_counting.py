"""What a runtime has to do for widths and products: multiply–adds, weights and values, each counted by hand."""

import numpy as np
import pytest
from cli_case import tiny_inputs, tiny_model
from graph_text import Weights, model_from_text
from removal import analysed
from test_choose import Case, case

from onnxprune.costs import cost_model
from onnxprune.counting import PER_NUMBER, PER_WEIGHT, Counts
from onnxprune.low_rank.factors import Form
from onnxprune.ranks import WHOLE, Factorable

POSITIONS = 64
"""Of 8 × 8 images."""
FORMS = {250: Form(2, "channel"), 500: Form(3, "spatial-svd"), WHOLE: None}


@pytest.fixture(scope="module")
def tiny() -> Case:
    return case(tiny_model(), tiny_inputs())


@pytest.fixture(scope="module")
def second(tiny: Case) -> Factorable:
    """The second convolution, 8 · 8 · 3 · 3, as a product."""
    layer = tiny.layers[1]
    return Factorable(layer, np.zeros((8, 72)), np.eye(72), np.zeros(72), 1.0, FORMS)


def effort(tiny: Case, second: Factorable, width: int, size: int) -> float:
    counts = Counts(tiny.analysis, [one.group for one in tiny.scored], tiny.costs, [second])
    others = [one.group.width for one in tiny.scored[1:]]
    return float(counts.effort()(np.array([width, *others, size])))


@pytest.mark.parametrize(("size", "rank", "kept"), [(250, 2, 2 * (72 + 8)), (500, 3, 3 * (8 * 3 + 8 * 3))])
def test_a_product_saves_what_its_factors_lack_and_costs_a_value(
    tiny: Case, second: Factorable, size: int, rank: int, kept: int
) -> None:
    less = (8 * 72 - kept) * (POSITIONS + PER_WEIGHT)
    more = 2 * PER_NUMBER * rank * POSITIONS  # written and read
    found = effort(tiny, second, 8, size) - effort(tiny, second, 8, WHOLE)
    assert found == pytest.approx(more - less, rel=1e-9)


def test_a_channel_takes_its_weights_and_values_along(tiny: Case, second: Factorable) -> None:
    weights, values = 27 + 8 * 9, 2  # of the layer that makes it and of the one that reads it; before and behind Relu
    one = weights * (POSITIONS + PER_WEIGHT) + values * POSITIONS * PER_NUMBER
    assert effort(tiny, second, 8, WHOLE) - effort(tiny, second, 5, WHOLE) == pytest.approx(3 * one, rel=1e-9)


def test_tables_and_biases_are_no_weights_that_a_run_reads_whole() -> None:
    """Only layers' weights count: 9 of the first, 12 of the second, not the 6 of the table nor the bias."""
    body = "e = Gather (table, i) s = Add (x, e) h = MatMul (s, h_w) r = Relu (h) y = Gemm (r, y_w, y_b)"
    row = np.array([1], np.int64)
    weights: Weights = {"table": (2, 3), "i": row, "h_w": (3, 3), "y_w": (3, 4), "y_b": (4,)}
    costs = cost_model(analysed(model_from_text("(float[N, 3] x) => (float[N, 4] y)", body, weights)).analysis)
    assert costs.weights(costs.full) == 9 + 12


def test_several_choices_are_counted_at_once(tiny: Case, second: Factorable) -> None:
    counts = Counts(tiny.analysis, [one.group for one in tiny.scored], tiny.costs, [second]).effort()
    choices = np.array([[8, 8, 250], [5, 8, WHOLE], [4, 4, 500]])
    assert counts(choices).tolist() == [float(counts(one)) for one in choices]
