"""From a model and data to the analysed graph: what is folded, what is frozen, and how samples are divided."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from cli_case import tiny_inputs, tiny_model
from dense_mask import max_relative_difference, run
from graph_text import Weights, batchnorm, model_from_text
from topologies import TOPOLOGIES

from onnxprune.config import Config, make_config
from onnxprune.errors import BadInput
from onnxprune.model_io import load
from onnxprune.passes.fold_batchnorm import fold_batchnorm
from onnxprune.prepare import Data, Prepared, fitted, matches, open_data, prepare
from onnxprune.trace import Trace, trace


def prepared(model: Any, inputs: Any, fold: bool = True, **options: Any) -> tuple[Prepared, Data]:
    loaded, config = load(model).model, Config(**options)
    data = open_data(loaded, inputs, config)
    return prepare(loaded, data, config, fold), data


def tiny(fold: bool = True, **options: Any) -> Prepared:
    return prepared(tiny_model(), tiny_inputs(), fold, **options)[0]


def resnet(**options: Any) -> Prepared:
    x = np.random.default_rng(0).standard_normal((8, 3, 16, 16)).astype(np.float32)
    return prepared(TOPOLOGIES["resnet-text"](), x, **options)[0]


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def unread(model: ir.Model) -> set[str]:
    return {name for name, value in model.graph.initializers.items() if not value.uses()}


def test_the_prepared_graph_computes_the_same() -> None:
    after, inputs = tiny(), {"x": tiny_inputs(4)}
    assert max_relative_difference(run(ir.to_proto(after.analysis.model), inputs), run(tiny_model(), inputs)) < 1e-5
    assert "BatchNormalization" not in operators(after.analysis.model)
    assert "BatchNormalization" in operators(after.original)
    assert all(len(linear.node.inputs) == 3 for linear in after.analysis.linears)


def test_the_folded_graph_is_traced_again_only_where_it_has_new_values(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = []

    def counted(model: ir.Model, *args: Any) -> Trace:
        traced.append(len(model.graph))
        return trace(model, *args)

    monkeypatch.setattr("onnxprune.prepare.trace", counted)
    x = np.random.default_rng(0).standard_normal((8, 3, 16, 16)).astype(np.float32)
    after, data = prepared(TOPOLOGIES["resnet-text"](), x)
    assert len(traced) == 1
    assert trace(after.analysis.model, data.sample).shapes.items() <= after.analysis.trace.shapes.items()


def test_without_fold_the_graph_is_that_of_the_pre_pass() -> None:
    after = tiny(fold=False)
    assert after.analysis.model is after.original


def test_vectors_of_a_folded_norm_go_with_it() -> None:
    assert set(tiny().analysis.model.graph.initializers) == {
        "c0_w", "c0_b", "c1_w", "c1_w.bias", "fc_w", "fc_b",
    }  # fmt: skip


def test_vectors_that_something_else_reads_and_what_was_unread_before_stay() -> None:
    body = """
    c = Conv (x, w) n = BatchNormalization (c, n_gamma, n_beta, n_mean, n_var)
    d = Conv (n, v) r = Relu (d) m = BatchNormalization (r, n_gamma, m_beta, n_mean, n_var)
    k = Reshape (n_beta, shape) y = Mul (m, k)
    """
    weights: Weights = {"w": (6, 4, 3, 3), "v": (6, 6, 1, 1), **batchnorm("n", 6), "m_beta": (6,)}
    weights |= {"shape": np.array([1, 6, 1, 1]), "never": (3,)}
    model = load(model_from_text("(float[N,4,5,5] x) => (float[N,6,3,3] y)", body, weights)).model
    after = fold_batchnorm(model, ["Conv:c"] + [node.name or "" for node in model.graph])
    assert operators(after).count("BatchNormalization") == 1
    assert {"n_gamma", "n_mean", "n_var", "n_beta", "never"} <= set(after.graph.initializers)
    assert unread(after) == {"never"}


def test_a_vector_that_is_an_output_of_the_model_stays() -> None:
    body = "c = Conv (x, w) y = BatchNormalization (c, n_gamma, n_beta, n_mean, n_var)"
    weights: Weights = {"w": (6, 4, 3, 3), **batchnorm("n", 6)}
    model = load(model_from_text("(float[N,4,5,5] x) => (float[N,6,3,3] y)", body, weights)).model
    model.graph.outputs.append(model.graph.initializers["n_mean"])
    after = fold_batchnorm(model, [next(iter(model.graph)).name or ""])
    assert operators(after) == ["Conv"]
    assert unread(after) == {"n_mean"}


def test_a_vector_that_is_listed_as_an_input_goes_from_there_too() -> None:
    body = "c = Conv (x, w) y = BatchNormalization (c, n_gamma, n_beta, n_mean, n_var)"
    weights: Weights = {"w": (6, 4, 3, 3), **batchnorm("n", 6)}
    model = load(model_from_text("(float[N,4,5,5] x) => (float[N,6,3,3] y)", body, weights)).model
    model.graph.inputs.extend(model.graph.initializers.values())
    next(iter(model.graph)).name = "conv"
    after = fold_batchnorm(model, ["conv"])
    assert [value.name for value in after.graph.inputs] == ["x", "w", "w.bias"]
    assert set(after.graph.initializers) == {"w", "w.bias"}


def test_what_is_kept_is_neither_folded_nor_given_a_bias() -> None:
    by_norm = tiny(keep=("n1_gamma",))
    assert "Conv:h1" in by_norm.frozen
    assert "BatchNormalization" in operators(by_norm.analysis.model)
    conv = next(node for node in by_norm.analysis.model.graph if node.name == "Conv:h1")
    assert len(conv.inputs) == 2
    by_weight = tiny(keep=("c1_w",))
    assert {"Conv:h1"} <= by_weight.frozen
    assert [group.name for group in by_weight.groups] == ["Conv:h0"]
    assert {c.name: c.reason for c in by_weight.closed}["Conv:h1"] == "--keep names it"


def test_only_freezes_all_but_the_group_and_its_readers() -> None:
    after = resnet(only=("Conv:a",))
    assert [group.name for group in after.groups] == ["Conv:a"]
    assert {"Conv:s", "Conv:c", "Conv:d", "Conv:p", "Gemm:y"} <= after.frozen
    assert not {"Conv:a", "Conv:b"} & after.frozen


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"keep": ("nothing*",)}, r"--keep 'nothing\*' matches no node or tensor"),
        ({"only": ("nope",)}, "--only 'nope' matches no node"),
        ({"ratios": {"h?_": 0.5}}, r"--ratios 'h\?_' matches no node"),
    ],
)
def test_a_glob_that_matches_nothing_is_an_error(options: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        tiny(**options)


def test_globs_match_names_as_they_are_written_too() -> None:
    assert matches(["layer[0].weight"], ["layer[0].weight"])
    assert matches(["block1.conv2"], ["other", "block?.conv*"])
    assert not matches(["Conv"], ["conv"])
    assert not matches(["a"], [])


@pytest.mark.parametrize(
    ("available", "wanted", "solved", "judged", "apart"),
    [
        (32, None, 30, 2, True),
        (32, 16, 16, 16, True),
        (100, 20, 20, 64, True),
        (8, None, 8, 8, False),
        (200, None, 188, 12, True),
    ],
)
def test_some_samples_are_kept_from_the_solvers(
    available: int, wanted: int | None, solved: int, judged: int, apart: bool
) -> None:
    data = prepared(tiny_model(), tiny_inputs(available), samples=wanted)[1]
    every = {x.tobytes() for x in tiny_inputs(available)}
    first = [x.tobytes() for feeds in data.source.batches() for x in feeds["x"]]
    last = [x.tobytes() for feeds in data.apart.batches() for x in feeds["x"]]
    assert (data.held_out, len(first), len(last)) == (apart, solved, judged)
    assert (data.source.samples, data.apart.samples) == (solved, judged)
    assert len(set(first)) == solved and {*first, *last} <= every
    assert set(first).isdisjoint(last) == apart
    assert len(data.sample["x"]) == 2


def test_a_fixed_batch_divides_what_is_kept_apart() -> None:
    proto = tiny_model()
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    data = prepared(proto, tiny_inputs(66), samples=32)[1]
    assert data.fixed_batch
    assert (data.source.samples % 4, data.apart.samples % 4) == (0, 0)
    assert {len(feeds["x"]) for source in (data.source, data.apart) for feeds in source.batches()} == {4}
    assert len(data.sample["x"]) == 4


@pytest.mark.parametrize(
    ("side", "options", "sizes"),
    [
        (10, {}, [32] * 3),  # 4 channels of 10 × 10 in fp32: 1,600 bytes a sample
        (1000, {}, [2] * 48),  # 16 MB a sample
        (1000, {"batch_size": 16}, [16] * 6),
        (4000, {}, [1] * 96),
    ],
)
def test_batches_shrink_until_no_activation_of_one_is_large(
    side: int, options: dict[str, int], sizes: list[int]
) -> None:
    config = make_config(samples=96, **options)
    data = open_data(load(tiny_model()).model, tiny_inputs(100), config)
    found = fitted(data, Trace({"x": (2, 3, side, side), "c": (2, 4, side, side)}, {}, 2), 1.0, config)
    assert [len(feeds["x"]) for feeds in found.source.batches()] == sizes
    assert found.batches == len(sizes)
    assert max(len(feeds["x"]) for feeds in found.apart.batches()) <= sizes[0]


def test_expensive_models_see_fewer_inputs_unless_told() -> None:
    data, trace = (
        open_data(load(tiny_model()).model, tiny_inputs(100), make_config()),
        Trace({"x": (2, 3, 9, 9)}, {}, 2),
    )
    few, all_ = fitted(data, trace, 1e12, make_config()), fitted(data, trace, 1e9, make_config())
    assert (few.source.samples, all_.source.samples) == (64, data.source.samples)
    assert any("64 of" in said for said in few.guesses)
    wide = Trace({"x": (2, 3, 9, 9), "c": (2, 10**10)}, {}, 2)  # ten billion elements an input, next to no product
    assert fitted(data, wide, 1e6, make_config()).source.samples == 64
    told = make_config(samples=90)
    assert fitted(open_data(load(tiny_model()).model, tiny_inputs(100), told), trace, 1e12, told).source.samples == 90


def test_expensive_models_are_compared_on_fewer_inputs() -> None:
    data, trace = (
        open_data(load(tiny_model()).model, tiny_inputs(200), make_config(samples=100)),
        Trace({"x": (2, 3, 9, 9)}, {}, 2),
    )
    judged = [fitted(data, trace, macs, make_config(samples=100)).apart.samples for macs in (1e6, 1e9, 1e12)]
    assert judged == [64, 35, 16]


def test_synthetic_inputs_are_made_once_and_what_they_take_is_told() -> None:
    data = open_data(load(tiny_model()).model, None, make_config(samples=8))
    first, second = ([feeds["x"].copy() for feeds in data.source.batches()] for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert data.made is not None and data.made.disk_bytes >= sum(a.nbytes for a in first)


def test_a_model_that_does_not_run_at_a_guessed_size_tells_the_guess() -> None:
    body = "c = Conv <pads = [1, 1, 1, 1]> (x, w) f = Flatten (c) y = MatMul (f, v)"
    model = model_from_text("(float[N,3,H,W] x) => (float[N,2] y)", body, {"w": (4, 3, 3, 3), "v": (100, 2)})
    with pytest.raises(BadInput, match=r"(?s)x.*--input-shape"):
        prepared(model, None)
