"""The network run in steps gives what the whole network gives with the weights that each step left."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from dense_mask import run
from graph_text import Weights, model_from_text
from hypothesis import given, settings
from hypothesis import strategies as st
from sweep_case import Net, net, net_of
from topologies import TOPOLOGIES, feeds

from onnxprune import runtime
from onnxprune.calibration.frontier import Frontier
from onnxprune.calibration.tape import Tape
from onnxprune.graph import array_of, replace_constant, values_by_name
from onnxprune.layers import layers_in_order
from onnxprune.parallel import LANES

SQUARE: tuple[int, ...] = (4, 4, 3, 3)
SIGNATURE = "(float[N,4,6,6] x) => (float[N,4,6,6] y)"
PADS = "<pads = [1,1,1,1]>"
NETS: dict[str, tuple[str, str, Weights]] = {
    "residual": (
        SIGNATURE,
        f"a = Conv {PADS} (x, a_w) t = Tanh (a) b = Conv {PADS} (t, b_w) r = Add (b, t) c = Conv {PADS} (r, c_w) "
        f"y = Add (c, a)",
        {"a_w": SQUARE, "b_w": SQUARE, "c_w": SQUARE},
    ),
    "input-read-late": (
        SIGNATURE,
        f"a = Conv {PADS} (x, a_w) b = Conv {PADS} (a, b_w) r = Mul (b, x) c = Conv {PADS} (r, c_w) y = Add (c, x)",
        {"a_w": SQUARE, "b_w": SQUARE, "c_w": SQUARE},
    ),
    "captured": (
        SIGNATURE,
        f"a = Conv {PADS} (x, a_w) b = Conv {PADS} (a, b_w) m = ReduceMean <keepdims = 0> (a) g = Greater (m, zero) "
        "s = If (g) <then_branch = p () => (float[N,4,6,6] o) { k = Neg (a) o = Add (k, b) }, "
        f"else_branch = q () => (float[N,4,6,6] u) {{ u = Mul (x, b) }}> c = Conv {PADS} (s, c_w) y = Tanh (c)",
        {"a_w": SQUARE, "b_w": SQUARE, "c_w": SQUARE, "zero": np.float32(0)},
    ),
    "channels-last": (
        "(float[N,6,6,4] x) => (float[N,6,6,4] y)",
        f"n = Transpose <perm = [0,3,1,2]> (x) a = Conv {PADS} (n, a_w) t = Relu (a) "
        f"l = Transpose <perm = [0,2,3,1]> (t) d = MatMul (l, d_w) q = Transpose <perm = [0,3,1,2]> (d) "
        f"b = Conv {PADS} (q, b_w) y = Transpose <perm = [0,2,3,1]> (b)",
        {"a_w": SQUARE, "b_w": SQUARE, "d_w": (4, 4)},
    ),
}


def prepared(name: str, count: int = 24, batch: int = 4) -> Net:
    signature, body, weights = NETS[name]
    shape = (6, 6, 4) if name == "channels-last" else (4, 6, 6)
    x = np.random.default_rng(2).standard_normal((count, *shape)).astype(np.float32)
    return net(signature, body, weights, {"x": x}, batch)


def frontier_of(network: Net, model: ir.Model) -> Frontier:
    return Frontier(model, network.wave, network.source)


def asked(network: Net, number: int) -> list[str]:
    """What the layers of one step read, and their partners."""
    ready = [layer for layer in network.layers if layer.wave == number]
    return sorted({v.name or "" for x in ready for v in (x.linear.x, x.partner) if v is not None})


def stepped(frontier: Frontier, number: int, batches: int, wanted: Sequence[str]) -> list[dict[str, Any]]:
    """What a step gives of each batch, in order."""
    given: dict[int, dict[str, Any]] = {}
    frontier.step(number, batches, wanted, given.__setitem__)
    return [given[batch] for batch in sorted(given)]


def steps(network: Net, counts: Sequence[int], look: bool = False) -> tuple[onnx.ModelProto, list[dict[str, Any]]]:
    """Run every step on so many batches, changing the step's weights after it; what each step yielded."""
    model = network.analysis.model.clone()
    values, frontier = values_by_name(model), frontier_of(network, model)
    seen = []
    for number, batches in enumerate(counts):
        wanted = asked(network, number)
        if look:
            for _, here in zip(range(1), frontier.look(number, batches, wanted), strict=False):
                assert set(wanted) <= set(here)
        parts = stepped(frontier, number, batches, wanted)
        assert len(parts) == batches
        seen.append({name: [part[name] for part in parts] for name in wanted})
        for layer in (layer for layer in network.layers if layer.wave == number):
            weight = values[layer.linear.weight.name or ""]
            replace_constant(weight, array_of(weight) * 1.25)
    return ir.to_proto(model), seen


def worst(network: Net, counts: Sequence[int], look: bool = False) -> float:
    """The largest relative difference between what the steps yield and the whole network with its final weights."""
    final, seen = steps(network, counts, look)
    every, found = list(network.source.batches()), [0.0]
    for batches, values in zip(counts, seen, strict=True):
        for i in range(batches if values else 0):
            expected = run(final, every[i], list(values))
            for name, parts in values.items():
                assert parts[i].shape == expected[name].shape
                off = np.abs(parts[i] - expected[name]) / (1 + np.abs(expected[name]))
                found.append(float(off.max(initial=0)))
    return float(np.max(found))  # NaN stays NaN


def depth(network: Net) -> int:
    return max(layer.wave for layer in network.layers) + 1


@pytest.mark.parametrize("name", NETS)
def test_step_by_step_is_the_whole_network_with_its_final_weights(name: str) -> None:
    network = prepared(name)
    assert depth(network) == 3
    assert worst(network, [6, 6, 6]) < 1e-5


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("counts", [(0, 2, 5), (0, 6, 3), (2, 2, 6), (6, 4, 1), (0, 0, 4), (1, 5, 5), (0, 3, 0)])
def test_batches_may_join_late_and_leave_early(name: str, counts: tuple[int, ...]) -> None:
    assert worst(prepared(name), counts) < 1e-5


@settings(max_examples=15)
@given(st.lists(st.integers(0, 6), min_size=3, max_size=3), st.booleans())
def test_any_numbers_of_batches_will_do(counts: list[int], look: bool) -> None:
    assert worst(prepared("residual"), counts, look) < 1e-5


def test_looking_ahead_changes_nothing() -> None:
    network = prepared("captured")
    plain, looked = steps(network, [2, 6, 6])[1], steps(network, [2, 6, 6], look=True)[1]
    for first, second in zip(plain, looked, strict=True):
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.parametrize("name", ["mobilenet-v2-text", "unet-text", "shufflenet-text", "inception-text"])
def test_larger_networks_run_in_steps_as_at_once(name: str) -> None:
    model = TOPOLOGIES[name]()
    network = net_of(model, feeds(model, seed=3, batch=6), batch=2)
    assert worst(network, [3] * depth(network)) < 1e-5


def test_dtypes_that_nothing_declares_are_those_of_the_run() -> None:
    model = model_from_text(SIGNATURE, NETS["residual"][1], NETS["residual"][2])
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    model.graph.node[1].op_type, model.graph.node[1].domain = "FastGelu", "com.microsoft"
    x = np.random.default_rng(2).standard_normal((24, 4, 6, 6)).astype(np.float32)
    network = net_of(model, {"x": x}, 4)
    assert values_by_name(network.analysis.model)["t"].type is None
    for counts in ([6, 6, 6], [0, 0, 5], [0, 3, 6]):
        assert worst(network, counts) < 1e-5


def test_disk_is_used_for_what_later_steps_read_and_no_more() -> None:
    network = prepared("residual", count=40, batch=4)
    model = network.analysis.model.clone()
    frontier = frontier_of(network, model)
    one = 40 * 4 * 6 * 6 * 4
    for number in range(3):
        stepped(frontier, number, 10, asked(network, number))
        # a is read at the end, t by the sum, r by the last layer: two at a time, and one tape that is written anew
        assert frontier.peak_bytes <= 4 * one
    assert frontier.peak_bytes >= one


def test_tapes_are_used_again_and_all_are_closed_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Tape] = []
    monkeypatch.setattr("onnxprune.calibration.frontier.Tape", lambda: made.append(Tape()) or made[-1])
    x = np.random.default_rng(0).standard_normal((8, 4, 6, 6)).astype(np.float32)
    letters = "abcdefgh"
    body = " ".join(f"{k} = Conv {PADS} ({p}, w_{k})" for p, k in zip("x" + letters, [*letters, "y"], strict=True))
    network = net(SIGNATURE, body, {f"w_{k}": SQUARE for k in [*letters, "y"]}, {"x": x}, 2)
    frontier = frontier_of(network, network.analysis.model.clone())
    for number in range(9):
        stepped(frontier, number, 4, asked(network, number))
    assert 1 <= len(made) <= 3
    assert frontier.peak_bytes <= 3 * x.nbytes


@dataclass(frozen=True, eq=False)
class Made:
    """A source that makes its batches as they are asked for, and notes each array."""

    count: int
    noted: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
    synthetic: bool = True
    description: str = "made"

    @property
    def samples(self) -> int:
        return 16 * self.count

    def batches(self) -> Iterator[dict[str, np.ndarray]]:
        for i in range(self.count):
            rng = np.random.default_rng(i)
            yield self.noted({"x": rng.standard_normal((16, 4, 6, 6)).astype(np.float32)})


@pytest.mark.parametrize("first", [False, True], ids=["joined-late", "from-the-start"])
def test_arrays_alive_do_not_grow_with_the_batches(first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    network, alive = prepared("residual", count=4), weakref.WeakValueDictionary[int, np.ndarray]()

    def noted(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        alive.update({id(array): array for array in arrays.values()})
        return arrays

    class Noting(Tape):
        def __getitem__(self, i: int) -> np.ndarray:
            return noted({"": super().__getitem__(i)})[""]

    monkeypatch.setattr("onnxprune.calibration.frontier.Tape", Noting)
    monkeypatch.setattr("onnxprune.calibration.frontier.run", lambda *args: noted(runtime.run(*args)))

    def most(batches: int) -> int:
        model, found = network.analysis.model.clone(), [0]
        frontier = Frontier(model, network.wave, Made(batches, noted))
        for number in range(3):
            wanted = asked(network, number)

            def use(batch: int, here: dict[str, Any], wanted: Sequence[str] = wanted) -> None:
                found.append(len(alive) if here.keys() == set(wanted) else 10**6)

            frontier.step(number, batches if number or first else 0, wanted, use)
        return max(found)

    # No more batches are under way than run, wait and are in use, each with the two or three arrays of a step.
    assert 2 <= most(60) <= 4 * (LANES + 2)


def test_layers_in_order_and_frontier_agree_on_what_is_final() -> None:
    network = prepared("captured")
    assert layers_in_order(network.analysis)[1] == network.wave
