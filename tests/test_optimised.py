"""Transformers that onnxruntime's optimisers have fused: pruned like the plain ones, and saved and proved like them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from dense_mask import max_relative_difference, run
from optimised_text import HEADS, HIDDEN, INNER, WORDS, decoder, encoder
from removal import CLOSE, Case, check_every_removal, proto, removals

from onnxprune.dependency import analyse
from onnxprune.errors import BadInput
from onnxprune.model_check import require_valid
from onnxprune.model_io import load
from onnxprune.passes.normalise import normalise
from onnxprune.passes.remove import remove
from onnxprune.passes.scatter import scatter
from onnxprune.trace import trace

RNG = np.random.default_rng(0)
INPUTS = {"ids": RNG.integers(0, WORDS, (2, 8)), "mask_in": np.array([[1] * 8, [1] * 5 + [0] * 3])}


def by_session(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """What a session writes that optimises as far as any machine can read."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimised.onnx")


def by_script(model: onnx.ModelProto, folder: Path, multi_head: bool = False) -> onnx.ModelProto:
    """What onnxruntime's script for transformers writes."""
    optimizer = pytest.importorskip("onnxruntime.transformers.optimizer")
    options = pytest.importorskip("onnxruntime.transformers.fusion_options").FusionOptions("bert")
    options.use_multi_head_attention = multi_head
    onnx.save(model, folder / "plain.onnx")
    sizes = {"num_heads": HEADS, "hidden_size": HIDDEN, "opt_level": 0}
    made = optimizer.optimize_model(str(folder / "plain.onnx"), "bert", optimization_options=options, **sizes)
    made.save_model_to_file(str(folder / "fused.onnx"))
    return onnx.load(folder / "fused.onnx")


def by_script_in_heads(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    return by_script(model, folder, multi_head=True)


Way = Callable[[onnx.ModelProto, Path], onnx.ModelProto]
FUSED: dict[str, tuple[Callable[[], onnx.ModelProto], Way, set[str], dict[str, int]]] = {
    "an encoder by a session": (
        encoder,
        by_session,
        {"FusedMatMul", "BiasGelu", "LayerNormalization", "SkipLayerNormalization"},
        {"heads": HEADS, "sizes": HIDDEN // HEADS, "values": HIDDEN // HEADS, "inner": INNER},
    ),
    "an encoder by script": (
        encoder,
        by_script,
        {"Attention", "BiasGelu", "SkipLayerNormalization", "EmbedLayerNormalization"},
        {"heads": HEADS, "inner": INNER},
    ),
    "an encoder by script, in heads": (
        encoder,
        by_script_in_heads,
        {"MultiHeadAttention", "BiasGelu", "SkipLayerNormalization", "EmbedLayerNormalization"},
        {"heads": HEADS, "inner": INNER},
    ),
    "a decoder by a session": (
        decoder,
        by_session,
        {"FusedMatMul", "BiasGelu", "SimplifiedLayerNormalization"},
        {"heads": HEADS, "sizes": HIDDEN // HEADS, "values": HIDDEN // HEADS, "inner": INNER},
    ),
}


def fused(name: str, folder: Path, *opened: str) -> Case:
    build, way, expected, _ = FUSED[name]
    model = way(build(), folder)
    assert expected <= {node.op_type for node in model.graph.node}
    inputs = {value.name: INPUTS[value.name] for value in model.graph.input}
    assert max_relative_difference(run(model, inputs), run(build(), inputs)) < 1e-4
    normal = normalise(load(model).model)
    return Case(analyse(normal, trace(normal, inputs), opened), inputs)


def check_exact(case: Case) -> None:
    for removed in removals(case.analysis.groups, seed=3):
        keep = case.analysis.keep_without(removed)
        slim = remove(case.analysis, keep)
        wide = run(proto(scatter(case.analysis, slim, keep)), case.inputs)
        assert max_relative_difference(run(proto(slim), case.inputs), wide) < CLOSE


@pytest.mark.parametrize("name", FUSED)
def test_a_fused_transformer_loses_what_the_plain_one_would(name: str, tmp_path: Path) -> None:
    case = fused(name, tmp_path)
    assert sorted(case.widths().values()) == sorted(FUSED[name][3].values())
    check_exact(case)
    if all(node.op_type != "SimplifiedLayerNormalization" for node in case.analysis.model.graph):
        check_every_removal(case)  # ONNX's checker does not know that one


@pytest.mark.parametrize("name", FUSED)
def test_a_fused_stream_opens_and_is_exact(name: str, tmp_path: Path) -> None:
    case = fused(name, tmp_path, "normalised")
    if any(node.op_type == "EmbedLayerNormalization" for node in case.analysis.model.graph):
        assert "EmbedLayerNormalization takes its statistics over it" in case.reasons().values()
        return
    assert sorted(case.widths().values()) == sorted([*FUSED[name][3].values(), HIDDEN])
    check_exact(case)


def test_operators_that_the_runtime_adds_to_the_standard_domain_are_valid_there(tmp_path: Path) -> None:
    model = by_session(decoder(), tmp_path)
    added = [node for node in model.graph.node if node.op_type == "SimplifiedLayerNormalization"]
    assert {node.domain for node in added} <= {"", "ai.onnx"}
    for given in (model, model.SerializeToString(), str(tmp_path / "optimised.onnx")):
        require_valid(given, "it")
    model.graph.node.append(onnx.helper.make_node("NoSuchOperator", ["y"], ["w"]))
    with pytest.raises(BadInput, match="NoSuchOperator"):
        require_valid(model, "it")
