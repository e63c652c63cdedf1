"""Models whose sizes nobody tells: what is tried, what is taken, and what is said of it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graph_text import Weights, integers, model_from_text
from PIL import Image

from onnxprune.calibration.guess import others, unknowns
from onnxprune.calibration.inputs import InputSpec
from onnxprune.calibration.trial import Trial
from onnxprune.config import Config
from onnxprune.errors import BadInput
from onnxprune.measure import measure
from onnxprune.model_io import load
from onnxprune.prepare import Data, open_data, prepare

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)


def opened(model: onnx.ModelProto, calib: object = None, **options: Any) -> Data:
    """The data of a model, after its whole graph was seen to run on them."""
    loaded, config = load(model).model, Config(**{"samples": 8, **options})
    data = open_data(loaded, calib, config)
    prepare(loaded, data, config, fold=True)
    for feeds in data.source.batches():
        assert Trial(loaded).refusal(feeds) is None
    return data


def shapes(data: Data) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in data.sample.items()}


def image_model(body: str, weights: Weights, signature: str = "(float[N,3,H,W] x) => (float[A,B] y)") -> Data:
    return opened(model_from_text(signature, body, weights))


def recurrent(state: str, batch: str = "N") -> onnx.ModelProto:
    """A GRU over (batch, 5, 3) from an initial state."""
    body = "t = Transpose <perm = [1, 0, 2]> (x) s, y = GRU <hidden_size = 4> (t, i_w, h_w, b, , h)"
    weights: Weights = {"i_w": (1, 12, 3), "h_w": (1, 12, 4), "b": (1, 24)}
    return model_from_text(f"(float[{batch},5,3] x, float[{state}] h) => (float[1,B,4] y)", body, weights)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, tuple[int, ...]]]:
    """The shapes of all inputs that are tried."""
    found: list[dict[str, tuple[int, ...]]] = []
    refusal = Trial.refusal

    def noted(self: Trial, feeds: Mapping[str, np.ndarray]) -> str | None:
        found.append({name: array.shape for name, array in feeds.items()})
        return refusal(self, feeds)

    monkeypatch.setattr(Trial, "refusal", noted)
    return found


def test_where_the_first_guess_runs_nothing_else_is_tried(tried: list[dict[str, tuple[int, ...]]]) -> None:
    loaded = load(model_from_text("(float[N,3,H,W] x) => (float[N,4,A,B] y)", "y = Conv (x, w)", {"w": (4, 3, 3, 3)}))
    data = open_data(loaded.model, None, Config(samples=8))
    assert tried == [{"x": (2, 3, 224, 224)}]
    assert all("224 is a guess; --input-shape x=1,3,224,224" in said for said in data.guesses)


def test_nothing_is_tried_where_nothing_is_open(tried: list[dict[str, tuple[int, ...]]]) -> None:
    loaded = load(model_from_text("(float[1,3,8,8] x) => (float[1,4,6,6] y)", "y = Conv (x, w)", {"w": (4, 3, 3, 3)}))
    open_data(loaded.model, None, Config(samples=8))
    assert tried == []


def test_a_height_that_must_leave_one_row_is_found_and_the_width_stays() -> None:
    body = "c = Conv <kernel_shape = [32, 1], strides = [32, 1]> (x, w) r = Relu (c) y = Squeeze (r, two)"
    data = image_model(body, {"w": (4, 3, 32, 1), "two": integers(2)}, "(float[N,3,H,W] x) => (float[N,4,W] y)")
    assert shapes(data) == {"x": (2, 3, 32, 224)}
    assert not data.fixed_batch
    assert data.guesses == (
        "Axis 2 (height) of input 'x' is dynamic and nothing says its size: 32 is a guess, taken because the model "
        "does not run on 224; --input-shape x=1,3,32,224 (with your sizes) sets it.",
        "Axis 3 (width) of input 'x' is dynamic and nothing says its size: 224 is a guess; --input-shape "
        "x=1,3,32,224 (with your sizes) sets it.",
    )


def test_sides_that_a_flattened_layer_fixes_are_found() -> None:
    body = "c = Conv <strides = [8, 8]> (x, w) f = Flatten (c) y = Gemm (f, v)"
    assert shapes(image_model(body, {"w": (2, 3, 8, 8), "v": (2 * 14 * 14, 5)})) == {"x": (2, 3, 112, 112)}


def test_a_side_that_halves_and_doubles_often_is_the_next_power_of_two() -> None:
    body = """
    d = MaxPool <kernel_shape = [64, 64], strides = [64, 64]> (x)
    u = Resize (d, , scales) c = Concat <axis = 1> (x, u) y = Conv (c, w)
    """
    weights: Weights = {"scales": np.array([1, 1, 64, 64], np.float32), "w": (4, 6, 1, 1)}
    assert shapes(image_model(body, weights, "(float[N,3,H,W] x) => (float[N,4,A,B] y)")) == {"x": (2, 3, 256, 256)}


def test_a_wave_shorter_than_a_kernel_grows() -> None:
    body = "u = Unsqueeze (x, one) c = Conv (u, w) y = ReduceMean <axes = [2], keepdims = 0> (c)"
    model = model_from_text("(float[N,L] x) => (float[N,4] y)", body, {"w": (4, 1, 300), "one": integers(1)})
    data = opened(model)
    assert shapes(data) == {"x": (2, 512)}
    assert "512 is a guess, taken because the model does not run on 64" in data.guesses[0]


def test_a_length_is_read_off_a_constant_beside_the_input() -> None:
    """1 would run as well: a table of positions can be broadcast to."""
    model = model_from_text("(float[N,T,6] x) => (float[N,T,4] y)", "s = Add (x, p) y = MatMul (s, w)",
                            {"p": (1, 50, 6), "w": (6, 4)})  # fmt: skip
    assert shapes(opened(model)) == {"x": (2, 50, 6)}


def test_of_two_open_axes_only_the_one_that_must_differ_does() -> None:
    model = model_from_text("(float[N,T,F] x) => (float[N,T,4] y)", "y = MatMul (x, w)", {"w": (10, 4)})
    assert shapes(opened(model)) == {"x": (2, 64, 10)}


def test_channels_are_read_off_the_first_convolution_and_the_sides_stay() -> None:
    data = image_model("y = Conv (x, w)", {"w": (4, 12, 3, 3)}, "(float[N,C,H,W] x) => (float[N,4,A,B] y)")
    assert shapes(data) == {"x": (2, 12, 224, 224)}


def test_one_axis_may_have_to_differ_from_another_of_its_kind() -> None:
    body = "c = Concat <axis = 1> (past, x) s = Add (c, p) y = MatMul (s, w)"
    model = model_from_text(
        "(float[N,1,6] x, float[N,P,6] past, float[N,S,6] p) => (float[N,U,4] y)", body, {"w": (6, 4)}
    )
    found = shapes(opened(model))
    assert found["past"] == (2, 64, 6)
    assert found["p"] == (2, 1, 6)


def test_a_symbol_that_is_a_sum_of_others_is_no_guess_of_its_own() -> None:
    body = "c = Concat <axis = 1> (past, x) m = Mul (c, mask) y = MatMul (m, w)"
    model = model_from_text(
        "(float[N,T,6] x, float[N,P,6] past, float[N,S,1] mask) => (float[N,S,4] y)", body, {"w": (6, 4)}
    )
    for value, dim in zip(model.graph.input, ("new", "past", "past + new"), strict=True):
        value.type.tensor_type.shape.dim[1].dim_param = dim
    data = opened(model)
    assert shapes(data) == {"x": (2, 64, 6), "past": (2, 64, 6), "mask": (2, 128, 1)}
    assert len(data.guesses) == 2


def test_a_state_that_holds_one_sample_fixes_the_batch() -> None:
    data = opened(recurrent("1,1,4"))
    assert shapes(data) == {"x": (1, 5, 3), "h": (1, 1, 4)}
    assert (data.fixed_batch, data.axes) == (True, {"x": 0, "h": None})
    assert [feeds["x"].shape for feeds in data.source.batches()] == [(1, 5, 3)] * 8
    assert data.guesses == (
        "The model does not run on 2 samples at once though its batch axis is free, so samples run in batches of 1.",
    )


@pytest.mark.parametrize("size", [2, 4])
def test_a_state_that_holds_several_samples_fixes_the_batch(size: int) -> None:
    model = recurrent(f"1,{size},4")
    data = opened(model)
    assert shapes(data) == {"x": (size, 5, 3), "h": (1, size, 4)}
    loaded = load(model).model
    (latency,) = measure(loaded, loaded.clone(), data, None, Config(threads=1)).latency
    assert latency.batch == size


def test_a_state_open_on_its_second_axis_counts_samples() -> None:
    data = opened(recurrent("1,?,4"))
    assert shapes(data) == {"x": (2, 5, 3), "h": (1, 2, 4)}
    assert data.axes == {"x": 0, "h": 1}
    assert data.guesses == ("Axis 1 of input 'h' is taken to count samples.",)


@pytest.mark.parametrize(("held", "fixed"), [(20, False), (1, True)])
def test_data_tell_whether_a_state_counts_samples(held: int, fixed: bool) -> None:
    rng = np.random.default_rng(0)
    calib = {name: rng.standard_normal(s).astype(np.float32) for name, s in (("x", (20, 5, 3)), ("h", (1, held, 4)))}
    data = opened(recurrent("1,?,4"), calib)
    size = 1 if fixed else 2
    assert (data.fixed_batch, shapes(data)) == (fixed, {"x": (size, 5, 3), "h": (1, size, 4)})


def test_what_only_looks_like_a_state_counts_no_samples() -> None:
    body = "t = Reshape (h, shape) c = MatMul (t, v) a = MatMul (x, w) y = Add (a, c)"
    weights: Weights = {"shape": integers(1, -1), "v": (64 * 4, 3), "w": (5, 3)}
    data = opened(model_from_text("(float[N,5] x, float[1,?,4] h) => (float[N,3] y)", body, weights))
    assert shapes(data) == {"x": (2, 5), "h": (1, 64, 4)}
    assert "Axis 1 (sequence) of input 'h'" in data.guesses[0]


def test_a_model_written_for_one_sample_is_noticed_with_data_too() -> None:
    model = model_from_text("(float[N,2,3] x) => (float[1,4] y)", "f = Reshape (x, shape) y = Gemm (f, w)",
                            {"shape": integers(1, 6), "w": (6, 4)})  # fmt: skip
    rows = np.random.default_rng(0).standard_normal((20, 2, 3)).astype(np.float32)
    for calib in (None, rows, iter([{"x": rows[:10]}, {"x": rows[10:]}])):
        data = opened(model, calib)
        assert (data.fixed_batch, shapes(data)) == (True, {"x": (1, 2, 3)})
        assert len(data.guesses) == 1


def test_images_of_a_folder_take_the_size_that_runs(tmp_path: Path) -> None:
    for at in range(3):
        Image.fromarray(np.full((20, 30, 3), 80 * at, np.uint8)).save(tmp_path / f"{at}.png")
    body = "c = Conv <strides = [8, 8]> (x, w) f = Flatten (c) y = Gemm (f, v)"
    model = model_from_text("(float[N,3,H,W] x) => (float[N,5] y)", body, {"w": (2, 3, 8, 8), "v": (32, 5)})
    assert shapes(opened(model, str(tmp_path))) == {"x": (2, 3, 32, 32)}


def test_the_error_lists_what_was_tried(tried: list[dict[str, tuple[int, ...]]]) -> None:
    model = model_from_text("(float[N,3,H,7] x) => (float[A,B] y)", "f = Flatten (x) y = Gemm (f, w)", {"w": (17, 2)})
    with pytest.raises(BadInput) as error:
        opened(model)
    said = str(error.value)
    assert said.startswith("the model runs on none of the sizes tried where it leaves them open (axis 2 (height) of ")
    assert "'x': 224, 256, 32, 28, 48," in said
    assert "--input-shape x=1,3,224,7 (with your sizes)" in said
    assert len(re.findall("Gemm", said)) == 1
    assert len(tried) <= 60
    assert len({str(each) for each in tried}) == len(tried)


def test_no_candidate_holds_absurdly_many_numbers() -> None:
    ids = InputSpec("ids", I64, (None, None))
    frames = InputSpec("frames", F32, (None, None, 8000))
    volume = InputSpec("v", F32, (None, 1, None, None, None))
    wave = InputSpec("wave", F32, (None, None))
    for specs, most in (([ids], 2048), ([frames], 256), ([volume], 512), ([wave], 65536)):
        found = list(others(specs, unknowns(specs), [3, 10**9]))
        assert max(max(sizes) for sizes in found) == most
        assert all(np.prod(sizes) * (8000 if specs == [frames] else 1) <= 2**21 for sizes in found)
        assert (3,) * len(unknowns(specs)) in found


def test_a_large_model_is_tried_less_often() -> None:
    small = load(recurrent("1,1,4")).model
    large = load(
        model_from_text(
            "(float[N,L] x) => (float[N,9] y)", "y = MatMul (x, w)", {"w": np.zeros((3, 9_000_000), np.float32)}
        )
    ).model
    assert Trial(large).tries < Trial(small).tries
