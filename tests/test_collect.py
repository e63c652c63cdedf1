"""Sweep 1 against numpy: sums of every row, targets as onnxruntime computes them, and no more than was asked for."""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
from dense_mask import run
from graph_text import Weights
from sweep_case import Batches, EveryRow, Net, channels_last, im2col, net

from onnxprune.calibration.allowance import Allowance
from onnxprune.calibration.collect import Collected, collect
from onnxprune.calibration.rows import Positions
from onnxprune.calibration.sampling import held_out
from onnxprune.labels import Shape
from onnxprune.op_rules.facts import Linear

SIGNATURE = "(float[N,4,7,7] x) => (float[N,6] y)"
BODY = """
a = Conv <pads=[1,1,1,1]> (x, a_w, a_b)
t = Relu (a)
b = Conv <group = 2, pads=[1,1,1,1]> (t, b_w)
r = Add (t, b)
c = Conv <strides=[2,2], dilations=[2,2], pads=[2,0,0,2]> (r, c_w, c_b)
d = ConvTranspose <strides=[2,2]> (c, d_w, d_b)
g = GlobalAveragePool (d)
f = Flatten (g)
m = MatMul (f, m_w)
n = Add (m, m_b)
y = Tanh (n)
"""
WEIGHTS: Weights = {
    "a_w": (6, 4, 3, 3), "a_b": (6,), "b_w": (6, 3, 3, 3), "c_w": (5, 6, 2, 2), "c_b": (5,),
    "d_w": (5, 4, 2, 2), "d_b": (4,), "m_w": (4, 6), "m_b": (6,),
}  # fmt: skip
WINDOWS = {
    "Conv:a": ("x", {"kernel": (3, 3), "strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)}),
    "Conv:b": ("t", {"kernel": (3, 3), "strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)}),
    "Conv:c": ("r", {"kernel": (2, 2), "strides": (2, 2), "pads": (2, 0, 0, 2), "dilations": (2, 2)}),
}
RESULTS = {"Conv:a": "a", "Conv:b": "r", "Conv:c": "c", "ConvTranspose:d": "d", "MatMul:m": "n"}
"""What each target is: the output, its bias added, and its partner."""


@pytest.fixture(scope="module")
def small() -> Net:
    x = np.random.default_rng(1).standard_normal((22, 4, 7, 7)).astype(np.float32)
    return net(SIGNATURE, BODY, WEIGHTS, {"x": x}, batch=4)


@pytest.fixture(scope="module")
def found(small: Net) -> Collected:
    return small.collect()


def rows_of(network: Net, name: str) -> list[np.ndarray]:
    """The rows of each batch, (groups · F) side by side."""
    value, shape = WINDOWS[name]
    seen = [run(network.proto, feeds, [value])[value] for feeds in network.source.batches()]
    return [im2col(x, **shape) for x in seen]


def test_the_layers_are_those_of_the_network(small: Net) -> None:
    assert [layer.name for layer in small.layers] == list(RESULTS)
    assert small.layer("Conv:b").partner is not None


@pytest.mark.parametrize("name", WINDOWS)
def test_sums_are_numpys_over_every_row(small: Net, found: Collected, name: str) -> None:
    statistics, rows = found.statistics[name], rows_of(small, name)
    blocks = small.layer(name).linear.groups
    parts = {"solve": [], "held": []}  # type: dict[str, list[np.ndarray]]
    for number, batch in enumerate(rows):
        held = held_out(len(batch), number)
        parts["held"].append(batch[held])
        parts["solve"].append(batch[: held.start])
    assert sum(len(part) for part in parts["held"]) == pytest.approx(sum(map(len, rows)) / 8, rel=0.1)
    for kind, sums in (("solve", statistics.solve), ("held", statistics.held)):
        every = np.concatenate(parts[kind]).astype(np.float64)
        for tally, x in zip(sums, np.split(every, blocks, axis=1), strict=True):
            own = tally.moments()
            assert own.count == len(x)
            np.testing.assert_allclose(own.mean_x, x.mean(0), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(own.gram, np.cov(x.T, bias=True), rtol=1e-4, atol=1e-5)
            assert own.cross.shape == (x.shape[1], 0)


@dataclass(frozen=True)
class EveryThird(EveryRow):
    """Channels are chosen on a third of the rows."""

    def step_to_choose(self, linear: Linear) -> int:
        return 3


def test_sums_to_choose_on_take_a_share_of_the_rows_and_targets_all(small: Net, found: Collected) -> None:
    s = small.sampling
    few = replace(small, sampling=EveryThird(s.samples, s.batches, s.layers, s.trace, s.seed)).collect()
    kept: tuple[list[np.ndarray], list[np.ndarray]] = [], []
    for number, batch in enumerate(rows_of(small, "Conv:a")):
        held = held_out(len(batch), number)
        kept[0].append(batch[: held.start : 3])
        kept[1].append(batch[held][::3])
    for tally, parts in zip((few.statistics["Conv:a"].solve[0], few.statistics["Conv:a"].held[0]), kept, strict=True):
        rows = np.concatenate(parts).astype(np.float64)
        assert tally.moments().count == len(rows)
        np.testing.assert_allclose(tally.moments().gram, np.cov(rows.T, bias=True), rtol=1e-4, atol=1e-5)
    for i in range(6):
        np.testing.assert_array_equal(few.targets["Conv:a"][i], found.targets["Conv:a"][i])


@pytest.mark.parametrize("name", RESULTS)
def test_targets_are_what_onnxruntime_computes_with_the_partner_added(small: Net, found: Collected, name: str) -> None:
    tape = found.targets[name]
    assert len(tape) == 6
    for feeds, target in zip(small.source.batches(), tape, strict=True):
        expected = channels_last(run(small.proto, feeds, [RESULTS[name]])[RESULTS[name]])
        np.testing.assert_allclose(target, expected, rtol=1e-4, atol=1e-5)


def test_the_disk_holds_the_targets_and_nothing_else(small: Net, found: Collected) -> None:
    sizes = [tape[i].nbytes for tape in found.targets.values() for i in range(len(tape))]
    assert found.disk_bytes == sum(sizes)


@dataclass(frozen=True)
class FewRows(EveryRow):
    """Every third position of the first two batches; of one layer all."""

    def used(self, linear: Linear) -> int:
        return self.batches if linear.node.name == "Conv:c" else 2

    def positions(self, linear: Linear, input_shape: Shape, batch: int) -> Positions:
        every = super().positions(linear, input_shape, batch)
        return every if linear.node.name == "Conv:c" else every[batch % 3 :: 3] if batch < 2 else every[:0]


def sparse(network: Net) -> Net:
    s = network.sampling
    return replace(network, sampling=FewRows(s.samples, s.batches, s.layers, s.trace, s.seed))


def test_rows_that_were_sampled_are_those_at_the_positions(small: Net) -> None:
    network = sparse(small)
    found = network.collect()
    assert {name: len(tape) for name, tape in found.targets.items()} == {n: 2 if n != "Conv:c" else 6 for n in RESULTS}
    rows = rows_of(small, "Conv:a")
    assert sum(s.count for part in ("solve", "held") for s in getattr(found.statistics["Conv:a"], part)) == sum(
        len(rows[i][i::3]) for i in (0, 1)
    )
    for i, feeds in enumerate(list(small.source.batches())[:2]):
        expected = channels_last(run(small.proto, feeds, ["r"])["r"])[i::3]
        np.testing.assert_allclose(found.targets["Conv:b"][i], expected, rtol=1e-4, atol=1e-5)


def test_what_no_layer_needs_any_more_is_not_computed(small: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxprune import runtime

    asked: list[set[str]] = []

    def noting(session: object, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = runtime.run(session, feeds)
        asked.append(set(found))
        return found

    monkeypatch.setattr("onnxprune.calibration.collect.run", noting)
    sparse(small).collect()
    assert Counter(map(frozenset, asked)) == {frozenset("trcf"): 2, frozenset("r"): 4}  # lanes run in any order
    asked.clear()
    network = sparse(small)
    only = [layer for layer in network.layers if layer.name != "Conv:c"]
    collect(network.analysis.model, only, frozenset(), network.source, network.sampling)
    assert len(asked) == 2


def test_only_measured_layers_have_sums_but_all_have_targets(small: Net) -> None:
    found = small.collect("Conv:c")
    assert list(found.statistics) == ["Conv:c"]
    assert list(found.targets) == list(RESULTS)


@pytest.mark.parametrize("name", WINDOWS)
def test_layers_too_wide_keep_the_variance_of_each_input(small: Net, name: str) -> None:
    small = replace(small, sampling=replace(small.sampling, allowance=Allowance(widest=8)))
    statistics = small.collect().statistics
    assert statistics[name].solve == statistics[name].held == []
    assert len(statistics["MatMul:m"].solve) == 1
    rows = np.concatenate(rows_of(small, name)).astype(np.float64)
    np.testing.assert_allclose(statistics[name].variance.variance().reshape(-1), rows.var(0), rtol=1e-4, atol=1e-6)


def test_the_variance_does_not_depend_on_the_batches(small: Net) -> None:
    small = replace(small, sampling=replace(small.sampling, allowance=Allowance(widest=8)))
    whole = replace(small, source=Batches([small.inputs]), sampling=replace(small.sampling, batches=1))
    one, many = (n.collect().statistics["Conv:a"].variance.variance() for n in (whole, small))
    assert np.all(one > 0)
    np.testing.assert_allclose(one, many, rtol=1e-5)


def test_progress_is_told_once_a_batch(small: Net) -> None:
    told: list[int] = []
    names = frozenset(RESULTS)
    collect(small.analysis.model, small.layers, names, small.source, small.sampling, lambda: told.append(1))
    assert len(told) == 6
