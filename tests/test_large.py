"""Models whose weights lie beside them in a file: what inspect and apply read of them, and what a run writes."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from dense_mask import run as run_proto
from graph_text import Weights, model_from_text
from model_counts import constants

from onnxprune.bench import bench
from onnxprune.calibration.window import Window
from onnxprune.fidelity import compare
from onnxprune.inspection import inspect
from onnxprune.model_io import load, save
from onnxprune.pipeline import compress
from onnxprune.plan import GroupPlan, Plan
from onnxprune.replay import UNMEASURED, UNSOLVED, apply_plan
from onnxprune.runtime import open_own, open_session, run
from onnxprune.serialise import release_all, tensor_bytes, tensors

WIDTH, LAYERS = 128, 6
MODULES = ("runtime", "pieces", "verify", "replay", "bench", "fidelity")
ONE_LAYER = 4 * WIDTH * WIDTH


@dataclass
class Opened:
    """Bytes of the weights of each session that was opened, by what it was for."""

    pieces: list[int] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    """Layers of 64 kB, 0.4 MB in all, in an external file."""
    body = " ".join(f"h{i} = MatMul ({f'r{i - 1}' if i else 'x'}, h{i}_w) r{i} = Relu (h{i})" for i in range(LAYERS))
    weights: Weights = {f"h{i}_w": (WIDTH, WIDTH) for i in range(LAYERS)} | {"y_w": (WIDTH, 10)}
    proto = model_from_text(
        f"(float[N,{WIDTH}] x) => (float[N,10] y)", f"{body} y = MatMul (r{LAYERS - 1}, y_w)", weights
    )
    onnx.save_model(proto, tmp_path / "mlp.onnx", save_as_external_data=True, location="mlp.data", size_threshold=1024)
    return tmp_path / "mlp.onnx"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """Every model counts as large, every constant as big."""
    seen = Opened()

    def piece(model: ir.Model, **options: object) -> object:
        seen.pieces.append(tensor_bytes(model))
        return open_own(model, **options)  # type: ignore[arg-type]

    def whole(model: ir.Model, **options: object) -> object:
        seen.whole.append(tensor_bytes(model))
        return open_session(model, **options)  # type: ignore[arg-type]

    for module in MODULES:
        monkeypatch.setattr(f"onnxprune.{module}.LARGE", ONE_LAYER)
    for module in ("passes.remove", "passes.scatter", "scoring", "calibration.collect"):
        monkeypatch.setattr(f"onnxprune.{module}.BIG", 2000)
    monkeypatch.setattr("onnxprune.pieces.PIECE", ONE_LAYER)
    monkeypatch.setattr("onnxprune.pieces.open_own", piece)
    for module in ("pieces", "bench", "fidelity", "calibration.collect"):
        monkeypatch.setattr(f"onnxprune.{module}.open_session", whole)
    yield seen


def halved(mlp: Path) -> Plan:
    kept = tuple(range(0, WIDTH, 2))
    names = [group.name for group in inspect(str(mlp)).groups]
    return Plan(groups=tuple(GroupPlan(name=n, width=WIDTH, kept=kept, method="magnitude") for n in names))


def test_inspect_opens_no_session_on_all_weights(mlp: Path, opened: Opened) -> None:
    found = inspect(str(mlp))
    assert [group.width for group in found.groups] == [WIDTH] * LAYERS
    assert found.totals.macs == WIDTH * WIDTH * LAYERS + WIDTH * 10
    assert opened.whole == []
    assert 0 < max(opened.pieces) <= ONE_LAYER


def test_apply_proves_and_writes_with_a_layer_in_memory_at_a_time(mlp: Path, opened: Opened, tmp_path: Path) -> None:
    result = apply_plan(str(mlp), halved(mlp))
    assert opened.whole == []
    assert max(opened.pieces) <= ONE_LAYER
    assert result.report.proof <= 1e-5
    assert result.report.latency == ()
    assert result.report.notes == (UNSOLVED, UNMEASURED)
    lazy = [tensor for tensor in tensors(result.model) if isinstance(tensor, ir.LazyTensor)]
    assert len(lazy) == LAYERS + 1
    written = save(result.model, tmp_path / "slim.onnx")
    assert written.data is not None
    before, after = constants(onnx.load(mlp)), constants(onnx.load(tmp_path / "slim.onnx"))
    np.testing.assert_array_equal(after["h0_w"], before["h0_w"][:, ::2])
    np.testing.assert_array_equal(after["h3_w"], before["h3_w"][::2, ::2])
    np.testing.assert_array_equal(after["y_w"], before["y_w"][::2])


def test_a_run_is_the_same_however_large_a_model_counts(mlp: Path, opened: Opened) -> None:
    options = {"ratio": 0.5, "samples": 64, "align": 1}
    large = compress(str(mlp), **options)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as small:
        for module in MODULES:
            small.setattr(f"onnxprune.{module}.LARGE", 1 << 30)
        whole = compress(str(mlp), **options)  # type: ignore[arg-type]
    assert large.plan.removed() == whole.plan.removed()
    assert large.report.fidelity is not None
    assert whole.report.fidelity is not None
    assert large.report.fidelity.relative_error == pytest.approx(whole.report.fidelity.relative_error, rel=1e-3)
    assert large.report.latency[0].before_ms > 0


def test_a_model_that_came_with_external_data_keeps_it_when_all_weights_are_new(mlp: Path, tmp_path: Path) -> None:
    model = load(str(mlp)).model.clone()
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy() * 2, name=value.name)
    assert save(model, tmp_path / "new.onnx").data is not None
    inline = ir.from_proto(onnx.load(mlp))
    assert save(inline, tmp_path / "inline.onnx").data is None


def test_weights_are_lent_to_a_session_without_a_copy(mlp: Path) -> None:
    model, x = load(str(mlp)).model, np.random.default_rng(1).standard_normal((2, WIDTH)).astype(np.float32)
    session = open_session(model, lent=True)
    assert {given.name for given in session.get_inputs()} == {"x", "y_w", *(f"h{i}_w" for i in range(LAYERS))}
    held = model.graph.initializers["h0_w"].const_value
    assert held is not None
    assert np.shares_memory(session.lent["h0_w"], held.numpy())
    first = run(session, {"x": x})["y"]
    release_all(model)
    np.testing.assert_array_equal(run(session, {"x": x})["y"], first)
    np.testing.assert_allclose(first, run_proto(onnx.load(mlp), {"x": x})["y"], rtol=1e-5, atol=1e-6)


def test_a_timed_session_of_a_large_model_reads_its_file_itself(mlp: Path, opened: Opened) -> None:
    model, x = load(str(mlp)).model, np.random.default_rng(1).standard_normal((2, WIDTH)).astype(np.float32)
    session = open_session(model, timed=True)
    assert [given.name for given in session.get_inputs()] == ["x"]
    wanted = run_proto(onnx.load(mlp), {"x": x})["y"]
    np.testing.assert_allclose(run(session, {"x": x})["y"], wanted, rtol=1e-5, atol=1e-6)
    fresh = ir.from_proto(onnx.load(mlp))
    np.testing.assert_allclose(run(open_session(fresh, timed=True), {"x": x})["y"], wanted, rtol=1e-5, atol=1e-6)


def test_large_models_are_timed_and_compared_one_after_the_other(mlp: Path, opened: Opened) -> None:
    model = load(str(mlp)).model
    first, second = bench([model, model], batch=1, seconds=0.05)
    assert first.ratio == 1.0
    assert second.median > 0
    assert opened.whole == [tensor_bytes(model)] * 2
    inputs = np.random.default_rng(1).standard_normal((8, WIDTH)).astype(np.float32)
    fidelity = compare(model, model, Window(_Arrays(inputs), {"x": 0}, 0, 8), held_out=True)
    assert (fidelity.samples, fidelity.relative_error, fidelity.top1_agreement) == (8, 0.0, 1.0)


@dataclass(frozen=True)
class _Arrays:
    inputs: np.ndarray
    samples = 8
    synthetic = False
    description = "arrays"

    def batches(self) -> Iterator[dict[str, np.ndarray]]:
        yield {"x": self.inputs[:5]}
        yield {"x": self.inputs[5:]}
