"""What is told before anything is pruned: the least that could remain of a model, held to what a run reaches."""

import numpy as np
import onnx
import pytest
from cli_case import tiny_model
from graph_text import model_from_text
from topologies import TOPOLOGIES

import onnxprune
from onnxprune.config import make_config

GROUPED = """
a = Conv (x, w0)
b = Relu (a)
c = Conv <group = 3> (b, w1)
d = Relu (c)
e = GlobalAveragePool (d)
f = Flatten (e)
y = MatMul (f, w2)
"""


def halved(model: onnx.ModelProto) -> onnxprune.Report:
    options = {"method": "magnitude", "rebuild": "none", "ratio": 0.5, "allocate": "uniform", "align": 1}
    return onnxprune.compress(model, samples=2, measure=False, **options).report


def test_half_of_each_layer_leaves_a_quarter_of_the_layers_between() -> None:
    found = onnxprune.inspect(tiny_model())
    assert found.totals.macs == 64 * 9 * (3 * 8 + 8 * 8) + 8 * 4
    assert found.least_macs == pytest.approx((64 * 9 * (3 * 4 + 4 * 4) + 4 * 4) / found.totals.macs)
    whole = (3 * 8 * 9 + 8) + (8 * 8 * 9 + 4 * 8) + (8 * 4 + 4)
    assert found.totals.params == whole
    assert found.least_params == pytest.approx(((3 * 4 * 9 + 4) + (4 * 4 * 9 + 4 * 4) + (4 * 4 + 4)) / whole)


def test_of_an_odd_number_of_channels_the_larger_half_remains() -> None:
    model = model_from_text("(float[N, 3] x) => (float[N, 2] y)", "h = MatMul (x, a) y = MatMul (h, b)",
                            {"a": (3, 7), "b": (7, 2)})  # fmt: skip
    assert onnxprune.inspect(model).least_params == pytest.approx(4 / 7)


def test_every_row_of_a_grouped_convolution_keeps_as_many() -> None:
    model = model_from_text("(float[N, 2, 4, 4] x) => (float[N, 2] y)", GROUPED,
                            {"w0": (9, 2, 1, 1), "w1": (9, 3, 1, 1), "w2": (9, 2)})  # fmt: skip
    found = onnxprune.inspect(model)
    assert [group.rows for group in found.groups] == [3, 3]
    assert found.least_params == pytest.approx((6 * 2 + 6 * 2 + 6 * 2) / (9 * 2 + 9 * 3 + 9 * 2))


def test_what_the_user_keeps_raises_the_bound_and_all_remains_where_nothing_is_open() -> None:
    free = onnxprune.inspect(tiny_model())
    kept = onnxprune.inspect(tiny_model(), make_config(keep=("c0_w",)))
    assert free.least_params < kept.least_params < 1
    closed = onnxprune.inspect(tiny_model(), make_config(keep=("c0_w", "c1_w")))
    assert (closed.groups, closed.least_macs, closed.least_params) == ((), 1.0, 1.0)


def test_a_model_without_weights_keeps_all_of_nothing() -> None:
    found = onnxprune.inspect(model_from_text("(float[N, 2] x) => (float[N, 2] y)", "y = Relu (x)", {}))
    assert (found.least_macs, found.least_params) == (1.0, 1.0)


@pytest.mark.parametrize("name", ["resnet-text", "densenet-text", "shufflenet-text", "squeeze-excitation-text"])
def test_a_run_that_halves_every_group_reaches_the_bound(name: str) -> None:
    model = TOPOLOGIES[name]()
    found, report = onnxprune.inspect(model), halved(model)
    assert all(np.isclose(group.kept, group.width / 2, atol=group.width / 4) for group in report.groups)
    assert report.after.macs / report.before.macs == pytest.approx(found.least_macs, rel=1e-4)
    assert report.after.params / report.before.params == pytest.approx(found.least_params, rel=0.02)


def test_a_model_that_runs_on_no_made_up_input_is_analysed_on_given_ones() -> None:
    body = "r = Concat <axis=1> (x, x) h = MatMul (r, a) y = MatMul (h, b)"
    model = model_from_text("(float[N, S] x) => (float[N, 2] y)", body, {"a": (86, 6), "b": (6, 2)})
    with pytest.raises(onnxprune.BadInput, match="--input-shape"):
        onnxprune.inspect(model)
    found = onnxprune.inspect(model, calib={"x": np.ones((2, 43), np.float32)})
    assert [group.width for group in found.groups] == [6]
