"""NISP in whole runs: which responses count, what it asks of the data, and what it is worth beside chance."""

import numpy as np
import onnx
import pytest
from dense_mask import run
from graph_text import batchnorm, model_from_text
from hypothesis import HealthCheck, given, settings
from pipeline_case import error, pictures, prune, resnet, tiny
from random_graphs import random_graphs
from removal import analysed
from topologies import TOPOLOGIES

from onnxprune import BadInput
from onnxprune.calibration.responses import responses
from onnxprune.config import Config
from onnxprune.final_responses import final_scores, named, standing_last
from onnxprune.flow import Flow, Score
from onnxprune.labels import Label
from onnxprune.model_io import load
from onnxprune.nisp import nisp, propagate
from onnxprune.pipeline import Result
from onnxprune.prepare import open_data, prepare

CLASSES = 4


class Batches:
    """A source of one batch."""

    synthetic, description = False, "given"

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.samples = array, len(array)

    def batches(self) -> list[dict[str, np.ndarray]]:
        return [{"x": self.array[:8]}, {"x": self.array[8:]}]


def kept(result: Result) -> dict[str, tuple[int, ...]]:
    return {group.name: group.kept for group in result.plan.groups}


def last(name: str) -> list[str]:
    case = analysed(TOPOLOGIES[name]())
    return sorted(value.name or "" for value in standing_last(case.analysis, Flow(case.analysis, ())))


def test_the_final_responses_are_what_the_last_layer_of_each_output_reads() -> None:
    assert last("resnet-text") == ["f"]
    assert last("yolo-head-text") == ["bs", "c1", "down"]


def test_responses_are_means_over_positions_a_row_an_input() -> None:
    model, inputs = resnet(), pictures(12)
    name = next(node.output[0] for node in model.graph.node if node.op_type == "Relu")
    values = run(model, {"x": inputs}, [name])[name]
    label = Label((1,), np.arange(values.shape[1]))
    found = responses(load(model).model, {name: label}, Batches(inputs))[name]
    np.testing.assert_allclose(found, values.mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)


def test_a_final_channel_that_never_varies_counts_nothing() -> None:
    body = "h = Gemm <transB = 1> (x, h_w, c) r = Relu (h) y = Gemm <transB = 1> (r, y_w)"
    weights = {"h_w": (5, 6), "y_w": (3, 5), "c": np.float32([0, 0, -99, 0, 0])}
    case = analysed(model_from_text("(float[n, 6] x) => (float[n, 3] y)", body, weights))
    flow, inputs = Flow(case.analysis, ()), np.random.default_rng(0).standard_normal((30, 6)).astype(np.float32)
    (score,) = final_scores(case.analysis, flow, Batches(inputs), standing_last(case.analysis, flow)).values()
    (part,) = score.parts
    assert part[2] == 0
    assert (np.delete(part, 2) > 0).all()


def test_a_layer_read_by_two_outputs_counts_twice() -> None:
    body = "h = Gemm <transB = 1> (x, h_w) r = Relu (h) y = Gemm <transB = 1> (r, y_w) z = Gemm <transB = 1> (r, z_w)"
    weights = {"h_w": (5, 6), "y_w": (3, 5), "z_w": (2, 5)}
    case = analysed(model_from_text("(float[n, 6] x) => (float[n, 3] y, float[n, 2] z)", body, weights))
    flow = Flow(case.analysis, ())
    assert [(value.name, times) for value, times in standing_last(case.analysis, flow).items()] == [("r", 2)]


def test_frl_names_the_layer_whose_responses_count() -> None:
    model, inputs = resnet(), pictures(32)
    names = [node.name for node in analysed(model).analysis.model.graph if node.op_type == "Relu"]
    early, late = (kept(prune(model, inputs, method="nisp", ratio=0.5, frl=name)) for name in (names[0], names[-1]))
    assert early.keys() == late.keys()
    assert early != late


def test_frl_may_name_a_normalisation_that_is_folded_away() -> None:
    model = resnet()
    nodes = analysed(model).analysis.model.graph
    name = next(node.name for node in nodes if node.op_type == "BatchNormalization")
    assert prune(model, pictures(32), method="nisp", ratio=0.5, frl=name).plan.groups


def test_an_frl_that_is_no_node_is_refused() -> None:
    with pytest.raises(BadInput, match="--frl 'nowhere' is no node of the model"):
        tiny(method="nisp", frl="nowhere")


def test_an_frl_that_gives_no_activation_is_refused() -> None:
    body = "s = Shape <start = 0, end = 1> (x) h = Gemm <transB = 1> (x, h_w) y = Gemm <transB = 1> (h, y_w)"
    signature = "(float[n, 6] x) => (float[n, 3] y, int64[1] s)"
    case = analysed(model_from_text(signature, body, {"h_w": (5, 6), "y_w": (3, 5)}))
    (name,) = (node.name for node in case.analysis.model.graph if node.op_type == "Shape")
    with pytest.raises(BadInput, match="gives nothing that can be collected"):
        named(case.analysis, case.analysis.model, Flow(case.analysis, ()), name or "")


def test_a_model_without_groups_is_refused_as_with_any_method() -> None:
    model = model_from_text("(float[n, 6] x) => (float[n, 3] y)", "y = Gemm <transB = 1> (x, w)", {"w": (3, 6)})
    with pytest.raises(BadInput, match="no channel of this model can go"):
        prune(model, np.random.default_rng(0).standard_normal((32, 6)).astype(np.float32), method="nisp", sampler=False)


def test_more_final_channels_than_can_be_compared_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.final_responses.WIDEST", 7)
    with pytest.raises(BadInput, match="has 8 channels, nisp compares up to 7"):
        tiny(method="nisp")


def test_the_same_channels_go_whatever_the_rebuild() -> None:
    model, inputs = resnet(), pictures(64)
    chosen = [kept(prune(model, inputs, method="nisp", rebuild=r, ratio=0.5)) for r in ("lsq", "scale", "none")]
    assert chosen[0] == chosen[1] == chosen[2]


def informed() -> onnx.ModelProto:
    """A network in which half the channels of each layer have outgoing weights of a tenth of the others'."""
    body = """a = Conv <pads = [1, 1, 1, 1]> (x, a_w) n = BatchNormalization (a, n_gamma, n_beta, n_mean, n_var)
        r = Relu (n) b = Conv <pads = [1, 1, 1, 1]> (r, b_w) s = Relu (b) g = GlobalAveragePool (s) f = Flatten (g)
        h = Gemm <transB = 1> (f, h_w) t = Relu (h) y = Gemm <transB = 1> (t, y_w)"""
    rng = np.random.default_rng(4)

    def weight(*shape: int) -> np.ndarray:
        drawn = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        drawn[:, rng.permutation(shape[1])[: shape[1] // 2]] *= 0.1
        return drawn.astype(np.float32)

    weights = {"a_w": (16, 3, 3, 3), "b_w": weight(16, 16, 3, 3), "h_w": weight(12, 16), "y_w": weight(CLASSES, 12)}
    signature = f"(float[n, 3, 16, 16] x) => (float[n, {CLASSES}] y)"
    return model_from_text(signature, body, weights | batchnorm("n", 16))


@pytest.mark.parametrize("rebuild", ["lsq", "none"])
def test_nisp_leaves_more_than_chance_does(rebuild: str) -> None:
    model, inputs, apart = informed(), pictures(96), pictures(64, seed=8)
    options = {"rebuild": rebuild, "ratio": 0.5}
    drawn = [error(prune(model, inputs, method="random", seed=s, **options).model, model, apart) for s in range(3)]
    assert error(prune(model, inputs, method="nisp", **options).model, model, apart) < 0.8 * min(drawn)


def test_groups_that_the_responses_do_not_depend_on_have_no_score() -> None:
    model, config = resnet(), Config(method="nisp", align=1)
    data = open_data(load(model).model, pictures(32), config)
    prepared = prepare(load(model).model, data, config, True)
    every = nisp(prepared, data, config, lambda: None)
    first = next(node.name for node in prepared.analysis.model.graph if node.op_type == "Relu")
    some = nisp(prepared, data, config.model_copy(update={"frl": first}), lambda: None)
    assert len(some) < len(every) == len(prepared.groups)


SMALL = settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@SMALL
@given(random_graphs())
def test_in_any_graph_scores_are_finite_and_none_is_negative(model: onnx.ModelProto) -> None:
    case = analysed(model, folded=True)
    flow, groups = Flow(case.analysis, ()), case.analysis.groups
    final = {}
    for value in standing_last(case.analysis, flow):
        parts = tuple(np.full(label.atoms.shape, 1 / label.atoms.size) for label in flow.labels(value))
        final[value] = Score(parts, 1.0)
    for scores in propagate(case.analysis, flow, final, groups, [group.row_count for group in groups]).values():
        assert np.isfinite(scores).all()
        assert (scores >= 0).all()
        assert scores.any()


def test_a_branch_that_all_inputs_take_hands_scores_on_as_if_it_stood_outside() -> None:
    layers = "c = Conv (x, a_w) h = Relu (c) d = Conv (h, b_w)"
    weights = {"a_w": (8, 3, 1, 1), "b_w": (6, 8, 1, 1), "y_w": (4, 6, 1, 1)}
    signature = "(float[n, 3, 8, 8] x) => (float[n, 4, 8, 8] y)"
    inside = f"""sum = ReduceSum <keepdims = 0> (x) high = Greater (sum, zero)
        z = If (high) <then_branch = a () => (float[n, m, 8, 8] d) {{ {layers} }},
                       else_branch = b () => (float[n, m, 8, 8] e) {{ e = Conv (x, e_w) }}> y = Conv (z, y_w)"""
    found = []
    branching = weights | {"e_w": (6, 3, 1, 1), "zero": np.float32(0)}
    for body, given_ in ((f"{layers} z = Identity (d) y = Conv (z, y_w)", weights), (inside, branching)):
        model = model_from_text(signature, body, given_)
        for tensor in model.graph.initializer:  # the same weights in both
            if tensor.name in weights:
                drawn = np.random.default_rng(len(tensor.raw_data)).standard_normal(tuple(tensor.dims))
                tensor.CopyFrom(onnx.numpy_helper.from_array(drawn.astype(np.float32), tensor.name))
        config = Config(method="nisp", align=1, ratio=0.5)
        data = open_data(load(model).model, np.abs(pictures(32, (3, 8, 8))), config)
        prepared = prepare(load(model).model, data, config, True)
        scores = nisp(prepared, data, config, lambda: None)
        named_ = {g.name: {w.y.name for w in g.writers} for g in prepared.groups}
        found.append(next(score for name, score in scores.items() if "c" in named_[name]))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
