import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from onnxprune import bench as bench_module
from onnxprune.bench import bench, random_feeds
from onnxprune.errors import BadInput


def model_of(signature: str, body: str = "y = Neg (x)") -> ir.Model:
    text = f'<ir_version: 8, opset_import: ["": 17]> net ({signature}) => (float[A] y) {{ {body} }}'
    return ir.from_proto(onnx.parser.parse_model(text))


def test_a_model_that_does_more_is_slower_than_the_first() -> None:
    light = model_of("float[N, 256] x", "h = Neg (x)   y = Abs (h)")
    heavy = model_of("float[N, 256] x", "t = Transpose (x)   h = MatMul (x, t)   g = MatMul (h, x)   y = Abs (g)")
    first, second = bench([light, heavy], names=["light", "heavy"], batch=256, threads=1, seconds=0.1)
    assert (first.name, second.name) == ("light", "heavy")
    assert (first.ratio, first.ratio_p10, first.ratio_p90) == (1, 1, 1)
    assert second.median > first.median > 0
    assert second.p10 <= second.median <= second.p90
    assert second.ratio_p10 <= second.ratio <= second.ratio_p90
    assert second.ratio < 1


def test_figures_are_milliseconds_and_ratios_are_pairwise(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("float[N] x")
    rounds = np.array([[2.0, 1.0], [40.0, 10.0], [6.0, 2.0]])
    monkeypatch.setattr(bench_module, "_measure", lambda *_: rounds)
    first, second = bench([model, model])
    assert (first.name, second.name) == ("model 1", "model 2")
    assert (first.median, second.median) == (6.0, 2.0)
    # 2, 4 and 3 times: not the ratio of the medians' neighbours, 6 / 2 by accident aside.
    assert (second.ratio, second.ratio_p10, second.ratio_p90) == pytest.approx((3.0, 2.2, 3.8))


def test_models_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = []

    class Session:
        def __init__(self, name: str) -> None:
            self.name = name

        def get_outputs(self) -> list[object]:
            return [SimpleNamespace(name="y", type="tensor(int64)")]

        def run(self, names: object, feeds: object) -> list[object]:
            turns.append(self.name)
            time.sleep(0.001)
            return [0]

    rounds = bench_module._measure([Session("a"), Session("b")], [{}, {}], 0.02)
    assert turns == ["a", "b"] * (len(turns) // 2)
    assert rounds.shape == (len(turns) // 2 - bench_module._WARM_UP_ROUNDS, 2)
    assert rounds.min() >= 1


def test_paths_are_named_by_their_files(tmp_path: Path) -> None:
    ir.save(model_of("float[N] x"), tmp_path / "a.onnx")
    (timing,) = bench([tmp_path / "a.onnx"], seconds=0)
    assert timing.name == "a.onnx"


def test_random_inputs_have_the_declared_types_and_the_same_values_for_a_seed() -> None:
    model = model_of("float[N, 3] x, int64[2, 5] ids, bool[4] mask, float16[2] h")
    feeds = random_feeds(model, {}, batch=None, seed=1)
    assert {name: (array.shape, array.dtype.name) for name, array in feeds.items()} == {
        "x": ((1, 3), "float32"),
        "ids": ((2, 5), "int64"),
        "mask": ((4,), "bool"),
        "h": ((2,), "float16"),
    }
    assert set(feeds["ids"].flat) <= {0, 1}
    again = random_feeds(model, {}, batch=None, seed=1)
    assert all(np.array_equal(feeds[name], again[name]) for name in feeds)
    assert not np.array_equal(feeds["x"], random_feeds(model, {}, batch=None, seed=2)["x"])


def test_shapes_and_batch_fill_free_dimensions() -> None:
    model = model_of("float[N, H, 3] x, float[N] z")
    feeds = random_feeds(model, {"x": (2, 5, 3)}, batch=7, seed=0)
    assert (feeds["x"].shape, feeds["z"].shape) == ((2, 5, 3), (7,))


def test_weights_listed_as_inputs_get_no_feed() -> None:
    proto = onnx.parser.parse_model("""<ir_version: 3, opset_import: ["": 8]>
        net (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Add (x, w) }""")
    assert list(random_feeds(ir.from_proto(proto), {}, batch=None, seed=0)) == ["x"]


BAD: dict[str, Callable[[], object]] = {
    "free dimensions.*--input-shape x=": lambda: bench([model_of("float[N, H] x")]),
    "fixed first dimension of 2: a batch of 8": lambda: bench([model_of("float[2, 3] x")], batch=8),
    "the inputs are": lambda: bench([model_of("float[N] x")], shapes={"image": [1]}),
    "no declared shape": lambda: bench([model_of("float[] x")]),
    "not a tensor of numbers": lambda: bench([model_of("string[2] s, float[2] x")]),
    "cannot run the model": lambda: bench([model_of("float[2] x")], feeds={"x": np.zeros(3, np.float32)}),
}


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_timed_is_explained(message: str) -> None:
    with pytest.raises(BadInput, match=message):
        BAD[message]()
