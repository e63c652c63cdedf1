"""Weights stored as codes of a byte: what the graph decodes is what numpy decodes, and the file is as small as said."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from dense_mask import max_relative_difference, run
from graph_text import Weights, branching, model_from_text

from onnxprune import BadInput, apply_plan, compress
from onnxprune.cli import run as command
from onnxprune.coding import binarised, product_quantised
from onnxprune.graph import array_of, constants
from onnxprune.model_io import load
from onnxprune.passes.code_weights import Codes, code_weights, decoded
from onnxprune.passes.normalise import normalise
from onnxprune.pipeline import Result

CASES: dict[str, tuple[str, str, Weights]] = {
    "gemm": ("float[N,30] x", "y = Gemm (x, w, b)", {"w": (30, 24), "b": (24,)}),
    "gemm, rows an output": ("float[N,30] x", "y = Gemm <transB=1> (x, w, b)", {"w": (24, 30), "b": (24,)}),
    "matmul over tokens": ("float[N,3,30] x", "y = MatMul (x, w)", {"w": (30, 24)}),
    "weight on the left": ("float[N,30,3] x", "y = MatMul (w, x)", {"w": (24, 30)}),
    "pointwise conv": ("float[N,30,5,5] x", "y = Conv (x, w, b)", {"w": (24, 30, 1, 1), "b": (24,)}),
}
RANKS = {"Conv": "A,B,C,D", "MatMul": "A,B,C", "Gemm": "A,B"}


def whole(case: str, opset: int = 17) -> onnx.ModelProto:
    given, body, weights = CASES[case]
    rank = next(rank for name, rank in RANKS.items() if name in body)
    return model_from_text(f"({given}) => (float[{rank}] y)", body, weights, opset=opset)


def feeds(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    given = model.graph.input[0]
    shape = [d.dim_value or 2 for d in given.type.tensor_type.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(given.type.tensor_type.elem_type)
    return {given.name: np.random.default_rng(0).standard_normal(shape).astype(dtype)}


def drawn(segment: int, features: int, outputs: int = 24, dtype: Any = np.float32) -> Codes:
    rng = np.random.default_rng(segment)
    index = rng.integers(0, 256, (outputs, -(-features // segment)), dtype=np.uint8)
    return Codes(rng.standard_normal((256, segment)).astype(dtype), index, features)


def by_hand(codes: Codes) -> np.ndarray:
    """(n, F), number by number."""
    segment = codes.table.shape[1]
    return np.array([[codes.table[row[i // segment], i % segment] for i in range(codes.features)]
                     for row in codes.index])  # fmt: skip


@pytest.mark.parametrize("opset", [9, 17, 21])
@pytest.mark.parametrize("segment", [1, 4, 8])
@pytest.mark.parametrize("case", CASES)
def test_the_graph_decodes_what_numpy_decodes(case: str, segment: int, opset: int) -> None:
    model = normalise(load(whole(case, opset)).model)
    name = next(node.name or "" for node in model.graph if node.op_type in RANKS)
    codes = drawn(segment, 30)
    coded, written = code_weights(model, {name: codes})
    onnx.checker.check_model(ir.to_proto(coded), full_check=True)
    original = next(array_of(value) for value in constants(model) if value.name == "w")
    by_name = {value.name: array_of(value) for value in constants(decoded(model, written))}
    rows = by_hand(codes)
    assert np.array_equal(by_name["w"], rows.T if original.shape == (30, 24) else rows.reshape(original.shape))
    given = feeds(ir.to_proto(model))
    found, wanted = run(ir.to_proto(coded), given), run(ir.to_proto(decoded(model, written)), given)
    assert max_relative_difference(found, wanted) < 1e-6
    stored = {value.name: array_of(value) for value in constants(coded)}
    assert "w" not in stored
    assert np.array_equal(stored["w.codes"], codes.index) and stored["w.codes"].dtype == np.uint8


def test_half_precision_stays_half_precision() -> None:
    weight = np.random.default_rng(0).standard_normal((6, 30)).astype(np.float16)
    body = "y = Gemm <transB=1> (x, w)"
    model = normalise(load(model_from_text("(float16[N,30] x) => (float16[N,6] y)", body, {"w": weight})).model)
    codes = drawn(4, 30, 6, np.float64)
    coded, written = code_weights(model, {"Gemm:y": codes})
    assert {str(array_of(v).dtype) for v in constants(coded)} == {"float16", "uint8", "int64"}
    onnx.checker.check_model(ir.to_proto(coded), full_check=True)
    given = feeds(ir.to_proto(model))
    wanted = given["x"].astype(np.float64) @ by_hand(codes).astype(np.float16).astype(np.float64).T
    assert run(ir.to_proto(coded), given)["y"] == pytest.approx(wanted, abs=0.05)
    assert written["w"].rows().dtype == np.float16


def test_a_weight_that_lies_in_a_body_goes_from_there() -> None:
    model = normalise(load(branching("o = MatMul (x, w)", "[N,6]", {"w": (6, 6)})).model)
    name = next(node.name for node in model.graph.all_nodes() if node.op_type == "MatMul") or ""
    codes = drawn(2, 6, 6)
    coded, _ = code_weights(model, {name: codes})
    assert "w" not in {value.name for value in constants(coded)}
    x = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)
    assert run(ir.to_proto(coded), {"x": x})["y"] == pytest.approx(x @ codes.rows().T, abs=1e-4)


def test_a_weight_that_another_layer_shares_stays_for_that() -> None:
    body = "h = MatMul (x, w) y = MatMul (h, w)"
    model = normalise(load(model_from_text("(float[N,6] x) => (float[N,6] y)", body, {"w": (6, 6)})).model)
    coded, _ = code_weights(model, {"MatMul:h": drawn(2, 6, 6)})
    assert "w" in {value.name for value in constants(coded)}


@pytest.mark.parametrize("features", [8, 21])
def test_signs_are_those_of_the_weight_and_the_scale_is_its_mean_size(features: int) -> None:
    weight = np.random.default_rng(1).standard_normal((5, features))
    codes = binarised(weight)
    assert codes.rows() == pytest.approx(np.where(weight >= 0, 1, -1) * np.abs(weight).mean())
    assert codes.index.shape == (5, -(-features // 8))


def test_every_segment_has_the_nearest_row_of_its_table() -> None:
    weight = np.random.default_rng(2).standard_normal((40, 60))
    codes = product_quantised(weight, 4, 0)
    segments = weight.reshape(-1, 4)
    distances = ((segments[:, None] - codes.table[None]) ** 2).sum(-1)
    nearest, taken = distances.min(1), distances[np.arange(len(segments)), codes.index.reshape(-1)]
    assert taken == pytest.approx(nearest, abs=1e-6)
    again = product_quantised(weight, 4, 0)
    assert np.array_equal(again.index, codes.index) and np.array_equal(again.table, codes.table)


def test_the_error_falls_with_the_bits_a_weight_and_beats_equal_steps() -> None:
    weight = np.random.default_rng(3).standard_normal((128, 96))
    errors = [np.sum((product_quantised(weight, s, 0).rows() - weight) ** 2) / np.sum(weight**2) for s in (8, 4, 2, 1)]
    assert all(finer < 0.5 * coarser for coarser, finer in pairwise(errors))
    step = (weight.max() - weight.min()) / 255
    rounded = weight.min() + np.round((weight - weight.min()) / step) * step
    assert errors[-1] < np.sum((rounded - weight) ** 2) / np.sum(weight**2)


def test_few_different_segments_are_stored_without_loss() -> None:
    weight = np.random.default_rng(4).integers(-3, 4, (64, 32)).astype(np.float64)
    assert np.array_equal(product_quantised(weight, 1, 0).rows(), weight)
    assert np.array_equal(product_quantised(np.zeros((64, 32)), 4, 0).rows(), np.zeros((64, 32)))


BODY = "h = Gemm <transB=1> (x, a_w, a_b) r = Relu (h) z = MatMul (r, b_w) s = Tanh (z) y = MatMul (s, c_w)"
WEIGHTS: Weights = {"a_w": (96, 40), "a_b": (96,), "b_w": (96, 100), "c_w": (100, 4)}


def perceptron() -> onnx.ModelProto:
    return model_from_text("(float[N,40] x) => (float[N,4] y)", BODY, WEIGHTS)


def pressed(**options: Any) -> Result:
    x = np.random.default_rng(5).standard_normal((64, 40)).astype(np.float32)
    return compress(perceptron(), calib=x, **{"measure": False, "method": "none"} | options)


@pytest.mark.parametrize(("options", "table", "per_byte"), [
    ({"fc": "pq", "segment": 2}, 256 * 2 * 4, 2),
    ({"fc": "pq"}, 256 * 4 * 4, 4),
    ({"fc": "bin"}, 256 * 8 * 4, 8),
])  # fmt: skip
def test_layers_take_the_bytes_that_are_told_and_small_ones_stay(
    options: dict[str, Any], table: int, per_byte: int
) -> None:
    result = pressed(**options)
    told = {one.name: one for one in result.report.codes}
    large, small = [told["Gemm:h"], told["MatMul:z"]], told["MatMul:y"]
    assert [one.after for one in large] == [table + 96 * 40 // per_byte, table + 100 * 96 // per_byte]
    assert small.before == small.after == 1600
    assert small.reason == f"with its table it would take {table + 4 * -(-100 // per_byte)} bytes"
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in result.model.graph.initializer}
    assert tensors["a_w.codes"].nbytes + tensors["a_w.table"].nbytes == large[0].after
    assert sum(a.nbytes for a in tensors.values()) == result.report.after.bytes
    saved = sum(one.before - one.after for one in large)
    shapes = sum(array.nbytes for name, array in tensors.items() if ".shape" in name)
    assert result.report.before.bytes - result.report.after.bytes == saved - shapes
    assert len(perceptron().SerializeToString()) - len(result.model.SerializeToString()) > 0.9 * saved
    assert result.report.proof < 1e-6 and result.report.budget.kind == "codes"
    assert result.report.after.macs == result.report.before.macs


def test_what_goes_and_what_is_coded_combine_and_a_plan_repeats_both() -> None:
    result = pressed(method="obs", fc="pq", macs=0.7, align=8, rebuild="none")
    assert result.report.after.macs <= 0.7 * result.report.before.macs
    assert [one.name for one in result.plan.codes] == ["Gemm:h", "MatMul:z"]
    again = apply_plan(perceptron(), result.plan)
    wanted = {t.name: onnx.numpy_helper.to_array(t) for t in result.model.graph.initializer}
    found = {t.name: onnx.numpy_helper.to_array(t) for t in again.model.graph.initializer}
    assert np.array_equal(found["a_w.codes"], wanted["a_w.codes"])
    assert np.array_equal(found["a_w.table"], wanted["a_w.table"])


def test_only_and_keep_name_the_layers() -> None:
    assert [one.name for one in pressed(fc="pq", only=("MatMul:z",)).report.codes] == ["MatMul:z"]
    assert "MatMul:z" not in [one.name for one in pressed(fc="pq", keep=("MatMul:z",)).report.codes]


def test_nothing_to_code_is_an_error_that_says_why() -> None:
    with pytest.raises(BadInput, match=r"no layer smaller: MatMul:y: with its table it would take 4196 bytes"):
        pressed(fc="pq", only=("MatMul:y",))


def test_weights_that_are_not_finite_stay() -> None:
    model = perceptron()
    weight = next(t for t in model.graph.initializer if t.name == "a_w")
    array = onnx.numpy_helper.to_array(weight).copy()
    array[3, 5] = np.inf
    weight.CopyFrom(onnx.numpy_helper.from_array(array, "a_w"))
    x = np.random.default_rng(5).standard_normal((8, 40)).astype(np.float32)
    told = {
        one.name: one.reason for one in compress(model, calib=x, method="none", fc="bin", measure=False).report.codes
    }
    assert told["Gemm:h"] == "it holds numbers that are not finite" and told["MatMul:z"] == ""


def test_the_command_tells_bytes_memory_and_latency_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(perceptron(), model)
    assert command([str(model), "--method", "none", "--fc", "bin", "-o", str(out)]) == 0
    told = capsys.readouterr().out
    assert "weights a byte" in told and "of the bytes stay" in told and "milliseconds" in told
    assert ("memory of a session" in told) == Path("/proc/self/status").exists()
    assert out.stat().st_size < 0.5 * model.stat().st_size
