"""Times of single layers: the right shapes are measured, each once, and fisher's widths follow them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from cli_case import tiny_inputs, tiny_model
from pipeline_case import QUICK
from sweep_case import net_of

from onnxprune.config import Config
from onnxprune.costs import cost_model
from onnxprune.graph import Array
from onnxprune.layer_times import LayerTimes, layer_times, milliseconds, single
from onnxprune.pipeline import compress
from onnxprune.runtime import open_session, run


class Clock:
    """Milliseconds on steps of four output channels; remembers what it was asked."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, model: ir.Model, feeds: Mapping[str, Array], config: Config) -> float:
        weight = model.graph.initializers["w"].const_value
        assert weight is not None
        self.seen.append(tuple(weight.shape.numpy()))
        rows = self.seen[-1][0]
        return float(-(-rows // 4)) * feeds["x"].shape[1]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def timed(clock: Clock) -> tuple[LayerTimes, np.ndarray]:
    analysis = net_of(tiny_model(), {"x": tiny_inputs(32)}).analysis
    return layer_times(analysis, Config(), clock), cost_model(analysis).full


def test_the_whole_is_the_sum_of_its_layers_at_their_real_widths() -> None:
    clock = Clock()
    times, full = timed(clock)
    assert times(full) == 2 * 3 + 2 * 8 + 1 * 8  # 8 from 3 channels, 8 from 8, 4 classes from 8
    assert sorted(clock.seen) == [(4, 8), (8, 3, 3, 3), (8, 8, 3, 3)]
    half = full.copy()
    half[:] = 5
    assert times(half) == 2 * 3 + 2 * 5 + 1 * 5


def test_a_width_between_two_steps_saves_nothing_in_what_it_writes() -> None:
    times, full = timed(Clock())
    every = np.repeat(full[None], 3, axis=0)
    every[:, -1] = [8, 7, 4]
    assert np.diff(times(every)).tolist() == [-1, -8 - 3]  # one input less; a step of 8, and three more inputs


def test_each_shape_is_measured_once_and_kept_for_other_runs(cache: Path) -> None:
    first, second = Clock(), Clock()
    times, full = timed(first)
    assert times(full) == times(full)
    again, _ = timed(second)
    assert again(full) == times(full)
    assert (len(first.seen), len(second.seen)) == (3, 0)
    assert len(list((cache / "onnxprune" / "times").glob("*.npz"))) == 3


def test_a_single_layer_computes_what_the_operator_does() -> None:
    linear = next(x for x in net_of(tiny_model(), {"x": tiny_inputs(32)}).analysis.linears if x.kind == "gemm")
    model, feeds = single(linear, (2, 8), 5, 3)
    weight = model.graph.initializers["w"].const_value
    assert weight is not None
    assert run(open_session(model), feeds)["y"] == pytest.approx(feeds["x"] @ weight.numpy().T, abs=1e-5)
    assert milliseconds(model, feeds, Config()) > 0


def test_fisher_takes_widths_by_measured_time() -> None:
    pytest.importorskip("torch")
    options = {**QUICK, "method": "fisher", "macs": 0.5, "fisher_cost": "time"}
    result = compress(tiny_model(), calib=tiny_inputs(32), **options)
    assert result.report.after.macs <= 0.5 * result.report.before.macs
    assert result.report.allocation == "fisher: the least damage for each millisecond"
