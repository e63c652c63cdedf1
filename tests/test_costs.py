"""Counts of multiply–adds and parameters agree with those of the model that is written."""

import numpy as np
import onnx_ir as ir
import pytest
from graph_text import Weights, model_from_text
from model_counts import macs, params
from removal import Case, analysed, proto, some_of
from topologies import TOPOLOGIES

from onnxprune.costs import cost_model, parameters
from onnxprune.dependency import analyse
from onnxprune.passes.add_bias import add_bias
from onnxprune.passes.remove import remove

CONVOLUTIONAL = ["resnet-text", "vgg-text", "inception-text", "mobilenet-v2-text", "densenet-text"]


def widths(case: Case, kept: np.ndarray) -> np.ndarray:
    return np.array([np.count_nonzero(group.kept(kept)) for group in case.analysis.groups])


def cuts(case: Case, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    drawn = [{group.name: some_of(group, rng) for group in case.analysis.groups} for _ in range(count)]
    return [case.analysis.keep_without(removed) for removed in drawn]


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_counts_are_those_of_the_model_that_is_written(name: str) -> None:
    case = analysed(TOPOLOGIES[name]())
    costs = cost_model(case.analysis)
    assert costs.macs(costs.full) == macs(proto(case.analysis.model))
    for keep in cuts(case, 3):
        slim = proto(remove(case.analysis, keep))
        assert costs.params(widths(case, keep)) == pytest.approx(params(slim), abs=1e-6)
        assert costs.macs(widths(case, keep)) == pytest.approx(macs(slim), abs=1e-6)


def test_the_share_of_parameters_is_of_the_model_as_it_came() -> None:
    """Biases that were added are no part of it: a budget would be missed by their number."""
    case = analysed(TOPOLOGIES["resnet-text"]())
    with_biases = add_bias(case.analysis.model, {linear.node.name or "" for linear in case.analysis.linears})
    assert parameters(with_biases) > parameters(case.analysis.model) == params(proto(case.analysis.model))
    costs = cost_model(analyse(with_biases, case.analysis.trace), case.analysis.model)
    assert costs.came == parameters(case.analysis.model)
    assert costs.params(costs.full) == parameters(with_biases)


@pytest.mark.parametrize("name", [name for name in TOPOLOGIES if name.endswith("-text")])
def test_parameters_are_counted_in_every_topology(name: str) -> None:
    case = analysed(TOPOLOGIES[name]())
    costs = cost_model(case.analysis)
    for keep in cuts(case, 2):
        slim = remove(case.analysis, keep)
        assert costs.params(widths(case, keep)) == pytest.approx(elements(slim), rel=0.01)


def elements(model: ir.Model) -> int:
    return sum(v.const_value.size for v in model.graph.initializers.values() if v.const_value is not None)


def test_many_choices_are_counted_at_once() -> None:
    case = analysed(TOPOLOGIES["resnet-text"]())
    costs = cost_model(case.analysis)
    choices = np.stack([widths(case, keep) for keep in cuts(case, 4)]).reshape(2, 2, -1)
    for count in (costs.macs, costs.params):
        assert count(choices).shape == (2, 2)
        assert [float(count(choice)) for choice in choices.reshape(4, -1)] == count(choices).reshape(-1).tolist()


def test_counts_are_of_one_sample_whatever_the_batch() -> None:
    two, three = (cost_model(analysed(TOPOLOGIES["resnet-text"](), batch=batch).analysis) for batch in (2, 3))
    assert two.macs(two.full) == three.macs(three.full)


def test_a_product_of_activations_counts_and_stays() -> None:
    body = "q = MatMul (x, q_w) k = MatMul (x, k_w) kt = Transpose <perm = [0, 2, 1]> (k) s = MatMul (q, kt)"
    weights: Weights = {"q_w": (6, 4), "k_w": (6, 4)}
    case = analysed(model_from_text("(float[N,5,6] x) => (float[N,5,5] s)", body, weights))
    costs = cost_model(case.analysis)
    assert costs.macs(costs.full) == 5 * 6 * 4 * 2 + 5 * 5 * 4


@pytest.mark.parametrize("name", [name for name in TOPOLOGIES if name.endswith("-text")])
def test_what_goes_with_each_group_is_counted_at_once(name: str) -> None:
    costs = cost_model(analysed(TOPOLOGIES[name]()).analysis)
    macs, params = costs.each()
    for group in range(costs.full.size):
        without = np.where(np.arange(costs.full.size) == group, 0, costs.full)
        assert macs[group] == pytest.approx(costs.macs(costs.full) - costs.macs(without), abs=1e-6)
        assert params[group] == pytest.approx(costs.params(costs.full) - costs.params(without), abs=1e-6)
