"""`--calib distilled`: made-up images become such as the model's BatchNormalizations remember."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from dense_mask import run
from graph_text import Weights, model_from_text
from model_counts import macs

from onnxprune.calibration.batchnorm_match import divergence
from onnxprune.calibration.inputs import input_specs
from onnxprune.calibration.norm_moments import norms_behind
from onnxprune.calibration.synthetic import SyntheticSource
from onnxprune.config import make_config
from onnxprune.course import Course
from onnxprune.errors import BadInput
from onnxprune.model_io import load
from onnxprune.pipeline import compress
from onnxprune.prepare import open_data

pytest.importorskip("torch")
from onnxprune.distilled import distil

BODY = """c0 = Conv <pads=[1,1,1,1]> (image, a_w) n0 = BatchNormalization (c0, a_gamma, a_beta, a_mean, a_var)
    r0 = Relu (n0) c1 = Conv <strides=[2,2]> (r0, b_w)
    n1 = BatchNormalization (c1, b_gamma, b_beta, b_mean, b_var) r1 = Relu (n1)
    p = GlobalAveragePool (r1) f = Flatten (p) y = Gemm (f, y_w, y_b)"""
SIGNATURE = "(float[N,3,16,16] image) => (float[N,4] y)"
SHAPES: Weights = {"a_w": (12, 3, 3, 3), "b_w": (16, 12, 3, 3), "y_w": (16, 4), "y_b": (4,)}


def seen(value: str, x: np.ndarray, model: onnx.ModelProto) -> np.ndarray:
    return run(model, {"image": x}, [value])[value]


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    """A network whose running statistics are those of images that nobody has any more: smooth, and of few colours."""
    norms: Weights = {f"{k}_{p}": np.ones(n, np.float32) for k, n in (("a", 12), ("b", 16)) for p in ("gamma", "var")}
    norms |= {f"{k}_{p}": np.zeros(n, np.float32) for k, n in (("a", 12), ("b", 16)) for p in ("beta", "mean")}
    made = model_from_text(SIGNATURE, BODY, SHAPES | norms)
    rng = np.random.default_rng(4)
    x = rng.standard_normal((64, 3, 16, 16)).cumsum(-1).astype(np.float32) * np.float32([3, 1, 0.2])[:, None, None] + 2
    for value, name in (("c0", "a"), ("c1", "b")):
        y = seen(value, x, made)
        for tensor in made.graph.initializer:
            if tensor.name in (f"{name}_mean", f"{name}_var"):
                new = y.mean((0, 2, 3)) if tensor.name.endswith("mean") else y.var((0, 2, 3))
                tensor.CopyFrom(onnx.numpy_helper.from_array(new.astype(np.float32), tensor.name))
    return made


@pytest.fixture
def source(model: onnx.ModelProto) -> SyntheticSource:
    specs = tuple(replace(s, shape=(None, *s.shape[1:])) for s in input_specs(load(model).model))
    return SyntheticSource(specs, 48, 24, 1, "made up")


@pytest.fixture(autouse=True)
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "onnxprune"


def images(batches: Callable[[], object]) -> np.ndarray:
    return np.concatenate([feeds["image"] for feeds in batches()])  # type: ignore[attr-defined]


def apart(model: onnx.ModelProto, x: np.ndarray) -> float:
    """How far the statistics of these images are from the running ones, by plain numpy."""
    values = [seen(value, x, model) for value in ("c0", "c1")]
    found = [(y.mean((0, 2, 3)), y.var((0, 2, 3))) for y in values]
    return divergence(norms_behind(load(model).model, ["image"]), found)


def test_distilled_images_fit_the_running_statistics_and_made_up_ones_do_not(
    model: onnx.ModelProto, source: SyntheticSource
) -> None:
    before, after = images(source.batches), images(distil(load(model).model, source).batches)
    assert after.shape == before.shape
    assert after.dtype == np.float32
    assert apart(model, after) < 0.5 * apart(model, before)


def test_outputs_are_spread_over_the_classes(model: onnx.ModelProto, source: SyntheticSource) -> None:
    y = run(model, {"image": images(distil(load(model).model, source).batches)})["y"]
    start = run(model, {"image": images(source.batches)})["y"]
    wanted = np.concatenate([np.random.default_rng((1, n)).permutation(24) % 4 for n in range(2)])

    def entropy(scores: np.ndarray) -> float:
        log = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        return float(-log[np.arange(len(wanted)), wanted].mean())

    assert entropy(y) < entropy(start)


def test_the_same_images_come_each_time_and_the_second_time_from_the_cache(
    model: onnx.ModelProto, source: SyntheticSource, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = images(distil(load(model).model, source).batches)
    assert len(list(cached.rglob("*.npz"))) == 2
    monkeypatch.setattr("onnxprune.distilled._Improver.__call__", lambda *_: pytest.fail("made again"))
    np.testing.assert_array_equal(images(distil(load(model).model, source).batches), first)


def test_another_seed_or_another_model_has_images_of_its_own(
    model: onnx.ModelProto, source: SyntheticSource, cached: Path
) -> None:
    first = images(distil(load(model).model, source).batches)
    other = images(distil(load(model).model, replace(source, seed=2)).batches)
    assert np.abs(first - other).max() > 0.1
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(
            onnx.numpy_helper.to_array(model.graph.initializer[0]) * 2, model.graph.initializer[0].name
        )
    )
    images(distil(load(changed).model, source).batches)
    assert len({path.parent for path in cached.rglob("*.npz")}) == 3


def test_a_broken_file_in_the_cache_is_made_anew(model: onnx.ModelProto, source: SyntheticSource, cached: Path) -> None:
    first = images(distil(load(model).model, source).batches)
    for path in cached.rglob("*.npz"):
        path.write_bytes(b"broken")
    np.testing.assert_array_equal(images(distil(load(model).model, source).batches), first)


def test_a_run_on_distilled_images_meets_its_budget_and_says_where_they_are_from(model: onnx.ModelProto) -> None:
    result = compress(model, calib="distilled", macs=0.6, samples=48, align=1, measure=False)
    assert macs(result.model) <= 0.6 * macs(model)
    assert "distilled from the model's BatchNorm statistics" in result.report.calibration.description
    assert result.report.calibration.synthetic


def test_a_fine_tune_learns_from_the_images_that_were_distilled(model: onnx.ModelProto) -> None:
    config = make_config(samples=48)
    data = open_data(load(model).model, "distilled", config)
    samples = Course().opened(load(model).model, "distilled", data, config)
    learned = samples.feeds(np.arange(16))["image"]
    shown = images(data.source.batches)
    assert all(np.abs(shown - one).max((1, 2, 3)).min() == 0 for one in learned)


def test_a_model_without_batch_normalisation_is_refused_with_a_way_out() -> None:
    plain = model_from_text(
        SIGNATURE, "c = Conv (image, a_w) p = GlobalAveragePool (c) y = Flatten (p)", {"a_w": (4, 3, 1, 1)}
    )
    with pytest.raises(BadInput, match="needs a BatchNormalization"):
        compress(plain, calib="distilled", macs=0.6, measure=False)
