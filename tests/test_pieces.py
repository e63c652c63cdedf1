"""A large model computed piece by piece is the model computed whole, with a few weights in memory at a time."""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import pytest
from dense_mask import run as run_proto
from graph_text import Weights, model_from_text
from removal import analysed, some_of
from topologies import TOPOLOGIES, feeds

from onnxprune.errors import ProofFailed
from onnxprune.graph import array_of, replace_constant, values_by_name
from onnxprune.model_io import load
from onnxprune.passes.normalise import normalise
from onnxprune.passes.remove import remove
from onnxprune.passes.scatter import scatter
from onnxprune.pieces import compute
from onnxprune.runtime import open_own
from onnxprune.serialise import tensor_bytes
from onnxprune.trace import trace
from onnxprune.verify import prove

NAMES = [name for name in TOPOLOGIES if name.endswith("-text")]
CHAIN = "a = MatMul (x, a_w) ar = Relu (a) b = MatMul (ar, b_w) br = Relu (b) c = MatMul (br, c_w) y = Add (c, ar)"
WIDE: Weights = {"a_w": (16, 32), "b_w": (32, 32), "c_w": (32, 32)}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Every model counts as large; the bytes of weights that each session of a piece was given."""
    sizes: list[int] = []

    def watched(model: ir.Model, **options: object) -> object:
        sizes.append(tensor_bytes(model))
        return open_own(model, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("onnxprune.pieces.LARGE", 0)
    monkeypatch.setattr("onnxprune.pieces.PIECE", 1000)
    monkeypatch.setattr("onnxprune.passes.remove.BIG", 0)
    monkeypatch.setattr("onnxprune.passes.scatter.BIG", 0)
    monkeypatch.setattr("onnxprune.passes.remove.ROWS_AT_ONCE", 50)
    monkeypatch.setattr("onnxprune.pieces.open_own", watched)
    yield sizes


def test_each_piece_holds_the_weights_of_one_layer_where_no_two_fit(opened: list[int]) -> None:
    model = model_from_text("(float[N,16] x) => (float[N,32] y)", CHAIN, WIDE)
    x = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    found = compute(load(model).model, {"x": x}, ["y", "b", "x"], {"a", "ar", "b", "br", "c"})
    assert list(found) == ["y", "b", "x"]
    wanted = run_proto(model, {"x": x})
    np.testing.assert_allclose(found["y"], wanted["y"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["x"], x)
    assert opened == [4 * 16 * 32, 4 * 32 * 32, 4 * 32 * 32]


def test_a_sequence_is_not_handed_from_piece_to_piece(opened: list[int]) -> None:
    body = """a = MatMul (x, a_w) s = SplitToSequence <axis = 1> (a, eight) b = MatMul (a, b_w)
    part = SequenceAt (s, one) c = MatMul (b, c_w) y = Concat <axis = 1> (part, c)"""
    weights = WIDE | {"eight": np.int64(8), "one": np.int64(1)}
    model = model_from_text("(float[N,16] x) => (float[N,40] y)", body, weights)
    x = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    found = compute(load(model).model, {"x": x}, ["y"], {"a", "b", "part", "c"})
    np.testing.assert_allclose(found["y"], run_proto(model, {"x": x})["y"], rtol=1e-5, atol=1e-6)
    assert opened == [2048, 4096 + 16, 4096]


@pytest.mark.parametrize("name", NAMES)
def test_the_trace_of_a_large_model_is_that_of_a_small_one(name: str, opened: list[int]) -> None:
    model = TOPOLOGIES[name]()
    normal, inputs = normalise(load(model).model), feeds(model, seed=1)
    large = trace(normal, inputs)
    assert opened
    with pytest.MonkeyPatch.context() as small:
        small.setattr("onnxprune.pieces.LARGE", 1 << 30)
        whole = trace(normal, inputs)
    assert large.shapes == whole.shapes
    assert large.vectors.keys() == whole.vectors.keys()
    assert all(np.array_equal(large.vectors[n], whole.vectors[n]) for n in whole.vectors)


def test_many_values_are_asked_of_several_sessions(opened: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that onnxruntime takes grows with the square of a session's outputs."""
    monkeypatch.setattr("onnxprune.pieces.LARGE", 1 << 30)
    monkeypatch.setattr("onnxprune.pieces.MANY", 4)
    model = load(model_from_text("(float[N,16] x) => (float[N,32] y)", CHAIN, WIDE)).model
    assert trace(model, {"x": np.zeros((3, 16), np.float32)}).shapes["br"] == (3, 32)
    assert len(opened) == 2


@pytest.mark.parametrize("name", NAMES)
def test_big_constants_are_cut_and_scattered_when_they_are_read(name: str, opened: list[int]) -> None:
    case = analysed(TOPOLOGIES[name](), folded=True)
    rng = np.random.default_rng(2)
    keep = case.analysis.keep_without({group.name: some_of(group, rng) for group in case.analysis.groups})
    late = remove(case.analysis, keep), scatter(case.analysis, remove(case.analysis, keep), keep)
    with pytest.MonkeyPatch.context() as small:
        small.setattr("onnxprune.passes.remove.BIG", 1 << 30)
        small.setattr("onnxprune.passes.scatter.BIG", 1 << 30)
        soon = remove(case.analysis, keep), scatter(case.analysis, remove(case.analysis, keep), keep)
    for one, other in zip(late, soon, strict=True):
        kinds = {type(value.const_value) for value in one.graph.initializers.values()}
        assert not case.analysis.groups or ir.LazyTensor in kinds
        for name_, value in other.graph.initializers.items():
            np.testing.assert_array_equal(array_of(one.graph.initializers[name_]), array_of(value))


def test_a_large_model_is_proved_piece_by_piece_and_a_wrong_weight_is_found(
    opened: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = analysed(TOPOLOGIES["resnet-text"]())
    rng = np.random.default_rng(2)
    keep = case.analysis.keep_without({group.name: some_of(group, rng) for group in case.analysis.groups})
    slim = remove(case.analysis, keep)
    opened.clear()
    assert prove(case.analysis, slim, keep, case.inputs) <= 1e-5
    largest = max(v.const_value.nbytes for v in case.analysis.model.graph.initializers.values() if v.const_value)
    assert len(opened) > 4
    assert max(opened) < 1000 + largest
    broken = slim.clone()
    weight = values_by_name(broken)[case.analysis.linears[0].weight.name or ""]
    replace_constant(weight, array_of(weight) + 1)
    right = scatter(case.analysis, slim, keep)
    monkeypatch.setattr("onnxprune.verify.scatter", lambda *_: right)
    with pytest.raises(ProofFailed, match="differs by"):
        prove(case.analysis, broken, keep, case.inputs)
