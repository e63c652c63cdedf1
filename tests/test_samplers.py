"""Channel samplers: only the first layer of a branch loses input channels, the shared input stays whole."""

import numpy as np
import onnx
import pytest
from dense_mask import masked_model, max_relative_difference, run
from graph_text import model_from_text

from onnxprune import compress

BODY = """
s = Conv <pads = [1, 1, 1, 1]> (x, s_w)
t = Relu (s)
a = Conv <pads = [1, 1, 1, 1]> (t, a_w, a_b)
r = Relu (a)
b = Conv <pads = [1, 1, 1, 1]> (r, b_w, b_b)
u = Add (b, t)
v = Relu (u)
g = GlobalAveragePool (v)
f = Flatten (g)
y = Gemm <transB = 1> (f, c_w, c_b)
"""
WEIGHTS = {"s_w": (8, 3, 3, 3), "a_w": (8, 8, 3, 3), "a_b": (8,), "b_w": (8, 8, 3, 3), "b_b": (8,), "c_w": (4, 8)}
SAMPLED = "Conv:a.channels"


def net() -> onnx.ModelProto:
    return model_from_text("(float[N, 3, 6, 6] x) => (float[N, 4] y)", BODY, {**WEIGHTS, "c_b": (4,)})


def data(count: int = 48) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((count, 3, 6, 6)).astype(np.float32)


def gathers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    return {node.name: constants[node.input[1]] for node in model.graph.node if node.op_type == "Gather"}


def test_the_branch_reads_the_sampled_channels_and_the_shortcut_all_of_them() -> None:
    done = compress(net(), calib=data(), sampler=True, ratios={"Conv:a.sampled": 0.5}, align=1, measure=False)
    assert [(g.name, len(g.kept)) for g in done.plan.groups] == [(SAMPLED, 4)]
    shapes = {t.name: tuple(t.dims) for t in done.model.graph.initializer}
    assert (shapes["s_w"], shapes["a_w"], shapes["b_w"]) == ((8, 3, 3, 3), (8, 4, 3, 3), (8, 8, 3, 3))
    (indices,) = gathers(done.model).values()
    assert tuple(indices.tolist()) == done.plan.groups[0].kept


def test_without_a_rebuild_it_equals_a_branch_whose_other_input_channels_are_masked() -> None:
    options = {"method": "magnitude", "rebuild": "none", "align": 1, "measure": False}
    done = compress(net(), sampler=True, ratios={"Conv:a.sampled": 0.5}, **options)
    (indices,) = gathers(done.model).values()
    mask = np.zeros((1, 8, 1, 1), np.float32)
    mask[:, indices] = 1
    separate = BODY.replace("a = Conv <pads = [1, 1, 1, 1]> (t,", "q = Identity (t) a = Conv <pads = [1, 1, 1, 1]> (q,")
    wide = model_from_text("(float[N, 3, 6, 6] x) => (float[N, 4] y)", separate, {})
    wide.graph.initializer.extend(net().graph.initializer)
    expected = run(masked_model(wide, {"q": mask}), {"x": data(4)})
    assert max_relative_difference(run(done.model, {"x": data(4)}), expected) < 1e-5


def test_solving_on_the_sampled_channels_beats_leaving_the_weights_as_they_are() -> None:
    options = {"sampler": True, "ratios": {"Conv:a.sampled": 0.5}, "align": 1, "method": "lasso"}
    errors = {}
    for rebuild in ("lsq", "none"):
        found = compress(net(), calib=data(), rebuild=rebuild, **options)
        assert found.report.fidelity is not None
        errors[rebuild] = found.report.fidelity.relative_error
    assert errors["lsq"] < 0.7 * errors["none"]


@pytest.mark.parametrize("sampler", [True, False])
def test_a_sampler_that_takes_every_channel_is_not_written(sampler: bool) -> None:
    options = {"align": 1, "measure": False, "ratios": {"Conv:b": 0.25}}
    done = compress(net(), calib=data(), sampler=sampler, **options)
    assert gathers(done.model) == {}
    assert not any("sampler" in entry.key for node in done.model.graph.node for entry in node.metadata_props)
