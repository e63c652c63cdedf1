"""Probes against the same surgery done by hand: readers refitted, removed inputs zero, the whole model run."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from dense_mask import run
from graph_text import Weights
from sweep_case import Net, im2col, net, ridge

from onnxprune.calibration.statistics import Moments, Tally
from onnxprune.criteria import lookup
from onnxprune.criteria.curve import CURVE_RIDGE
from onnxprune.criteria.problem import Options
from onnxprune.probe import Prober, _relative, judged_values, open_prober
from onnxprune.scoring import Scored, score

SIGNATURE = "(float[N,2,6,6] x) => (float[N,5] y)"
BODY = """
s = Conv <pads=[1,1,1,1]> (x, s_w, s_b)
h = Relu (s)
a = Conv <pads=[1,1,1,1]> (h, a_w, a_b)
ah = Relu (a)
b = Conv <pads=[1,1,1,1]> (ah, b_w, b_b)
r = Add (b, h)
rh = Relu (r)
c = Conv (rh, c_w, c_b)
ch = Relu (c)
g = GlobalAveragePool (ch)
f = Flatten (g)
y = Gemm <transB=1> (f, fc_w, fc_b)
"""
WEIGHTS: Weights = {
    "s_w": (5, 2, 3, 3), "s_b": (5,), "a_w": (6, 5, 3, 3), "a_b": (6,), "b_w": (5, 6, 3, 3), "b_b": (5,),
    "c_w": (7, 5, 1, 1), "c_b": (7,), "fc_w": (5, 7), "fc_b": (5,),
}  # fmt: skip
PADDED = {"kernel": (3, 3), "strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)}
POINT = {**PADDED, "kernel": (1, 1), "pads": (0, 0, 0, 0)}
READERS = {
    "a_w": ("h", "a_b", PADDED),
    "b_w": ("ah", "b_b", PADDED),
    "c_w": ("rh", "c_b", POINT),
    "fc_w": ("f", "fc_b", None),
}


def made(body: str = BODY, weights: Weights = WEIGHTS, signature: str = SIGNATURE, count: int = 48) -> Net:
    x = np.random.default_rng(2).standard_normal((count, 2, 6, 6)).astype(np.float32)
    return net(signature, body, weights, {"x": x})


@pytest.fixture(scope="module")
def plain() -> Net:
    return made()


def scored(network: Net, method: str = "obs") -> dict[str, Scored]:
    found = score(network.analysis, network.collect(), lookup(method), Options(), 0, network.analysis.groups)
    return {one.group.name: one for one in found}


def few(network: Net) -> dict[str, np.ndarray]:
    """The first inputs: probes run on fewer than the statistics saw."""
    return {name: array[:8] for name, array in network.inputs.items()}


def opened(network: Net, groups: dict[str, Scored]) -> Prober:
    return open_prober(network.analysis, network.layers, list(groups.values()), few(network))


def by_hand(network: Net, removed: dict[str, Sequence[int]]) -> onnx.ModelProto:
    """The model whose readers (by weight) lost these inputs and were refitted on the original's own rows."""
    model = network.proto
    constants = {t.name: onnx.numpy_helper.to_array(t).copy() for t in model.graph.initializer}
    for weight, channels in removed.items():
        value, bias, shape = READERS[weight]
        seen = run(network.proto, network.inputs, [value])[value]
        rows = (seen if shape is None else im2col(seen, **shape)).astype(np.float64)
        solve = np.concatenate([batch[: len(batch) - len(batch) // 8] for batch in np.array_split(rows, 3)])
        kernel = constants[weight].astype(np.float64)
        flat, taps = kernel.reshape(len(kernel), -1), kernel[0, 0].size
        kept = np.repeat(~np.isin(np.arange(kernel.shape[1]), channels), taps)
        scale = solve.var(0).mean() / solve[:, kept].var(0).mean()  # the ridge refers to all inputs
        target = solve @ flat.T
        fitted, _ = ridge(solve[:, kept], target, flat[:, kept], CURVE_RIDGE * scale)
        flat = np.zeros_like(flat)
        flat[:, kept] = fitted
        constants[bias] = constants[bias] + (target - solve @ flat.T).mean(0)
        constants[weight] = flat.reshape(kernel.shape)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(constants[tensor.name].astype(np.float32), tensor.name))
    return model


def expected(network: Net, model: onnx.ModelProto, output: str = "y") -> float:
    """Squared error over variance; of scores, what remains but for a shift of all of them."""
    wanted, found = (run(m, few(network), [output])[output].astype(np.float64) for m in (network.proto, model))
    difference = found - wanted
    if difference.ndim == 2:
        difference -= difference.mean(1, keepdims=True)
    return float((difference**2).mean() / wanted.var())


def gone(one: Scored, width: int) -> list[int]:
    return sorted(set(range(one.group.width)) - set(one.selection.keep(width).tolist()))


@pytest.mark.parametrize(("group", "readers"), [("Conv:a", ["b_w"]), ("Conv:c", ["fc_w"]), ("Conv:s", ["a_w", "c_w"])])
def test_damage_is_that_of_refitted_readers_with_zeros_at_what_went(plain: Net, group: str, readers: list[str]) -> None:
    """The stream of Conv:s has two readers, and both lose the same channels at once."""
    groups = scored(plain)
    one, prober = groups[group], opened(plain, groups)
    assert [linear.weight.name for linear in one.group.readers] == readers
    for width in (1, one.group.width // 2, one.group.width - 1):
        (found,) = prober.damage([[(one, width)]])
        model = by_hand(plain, {name: gone(one, width) for name in readers})
        assert found == pytest.approx(expected(plain, model), rel=5e-3, abs=1e-6)


def test_groups_cut_together_are_judged_together(plain: Net) -> None:
    groups = scored(plain)
    prober, (s, a, c) = opened(plain, groups), (groups[n] for n in ("Conv:s", "Conv:a", "Conv:c"))
    trial = [(s, 3), (a, 4), (c, 4)]
    model = by_hand(plain, {"a_w": gone(s, 3), "c_w": gone(s, 3), "b_w": gone(a, 4), "fc_w": gone(c, 4)})
    assert prober.damage([trial])[0] == pytest.approx(expected(plain, model), rel=5e-3)


def joined() -> Net:
    """Two groups that one convolution reads."""
    body = """
    p = Conv (x, p_w, p_b) ph = Relu (p) q = Conv (x, q_w, q_b) qh = Relu (q) h = Concat <axis = 1> (ph, qh)
    c = Conv (h, c_w, c_b) ch = Tanh (c) g = GlobalAveragePool (ch) f = Flatten (g) y = Gemm <transB=1> (f, fc_w, fc_b)
    """
    weights: Weights = {
        "p_w": (3, 2, 1, 1), "p_b": (3,), "q_w": (4, 2, 1, 1), "q_b": (4,), "c_w": (7, 7, 1, 1), "c_b": (7,),
        "fc_w": (5, 7), "fc_b": (5,),
    }  # fmt: skip
    return made(body, weights)


def test_two_groups_in_one_reader_are_both_taken_out_before_it_is_refitted() -> None:
    network = joined()
    groups = scored(network)
    p, q = groups["Conv:p"], groups["Conv:q"]
    READERS["c_w"], kept = ("h", "c_b", POINT), READERS["c_w"]
    model = by_hand(network, {"c_w": [*gone(p, 2), *(3 + i for i in gone(q, 2))]})
    READERS["c_w"] = kept
    found = opened(network, groups).damage([[(p, 2), (q, 2)]])
    assert found == [pytest.approx(expected(network, model), rel=5e-3)]


def test_groups_that_share_a_layer_judge_by_the_same_moments_whichever_threads_ask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    groups = scored(joined(), "magnitude")
    shared = [j.held for name in ("Conv:p", "Conv:q") for j in groups[name].judges if j.reader.name == "Conv:c"]
    assert len(shared) == 2 and shared[0] is shared[1]
    flushed: list[int] = []
    moments, asked = Tally.moments, threading.Barrier(8, timeout=30)

    def slow(tally: Tally) -> Moments:
        flushed.append(tally.count)
        time.sleep(0.05)
        return moments(tally)

    def ask(number: int) -> Moments:
        asked.wait()
        return shared[number % 2].moments()

    monkeypatch.setattr(Tally, "moments", slow)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))
    assert all(one is found[0] for one in found)
    assert flushed == [found[0].count] and found[0].count > 0


def test_nothing_removed_does_no_damage_and_less_left_does_more(plain: Net) -> None:
    groups = scored(plain)
    one, prober = groups["Conv:a"], opened(plain, groups)
    none, some, most = prober.damage([[(one, width)] for width in (6, 4, 1)])
    assert none < 1e-6 < some < most


def test_groups_probed_by_one_session_do_the_damage_that_each_does_alone(plain: Net) -> None:
    groups = scored(plain)
    prober, cuts = opened(plain, groups), [(groups[name], 2) for name in ("Conv:s", "Conv:a", "Conv:c")]
    alone = [prober.damage([[cut]])[0] for cut in cuts]
    assert len(set(alone)) == 3
    assert prober.damage([[cut] for cut in cuts]) == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize("squash", ["Softmax", "LogSoftmax"])
def test_a_softmax_is_judged_before_it_saturates(squash: str) -> None:
    network = made(BODY.replace("y = Gemm", "z = Gemm") + f"y = {squash} <axis = 1> (z)")
    assert judged_values(network.analysis.model) == ["z"]
    groups = scored(network)
    (found,) = opened(network, groups).damage([[(groups["Conv:a"], 3)]])
    model = by_hand(network, {"b_w": gone(groups["Conv:a"], 3)})
    assert found == pytest.approx(expected(network, model, "z"), rel=5e-3)


def test_outputs_are_judged_once_each_and_those_out_of_reach_not_at_all() -> None:
    signature = "(float[N,2,6,6] x) => (float[N,5] y, float[N,5,6,6] h, float[N,2,6,6] x2)"
    network = made(BODY + "x2 = Neg (x)", WEIGHTS, signature)
    assert judged_values(network.analysis.model) == ["y", "h", "x2"]
    groups = scored(network)
    (found,) = opened(network, groups).damage([[(groups["Conv:a"], 3)]])
    model = by_hand(network, {"b_w": gone(groups["Conv:a"], 3)})
    assert found == pytest.approx(expected(network, model), rel=5e-3)


def test_the_errors_of_several_outputs_add_up() -> None:
    network = made(signature="(float[N,2,6,6] x) => (float[N,5] y, float[N,5,6,6] r)")
    groups = scored(network)
    (found,) = opened(network, groups).damage([[(groups["Conv:a"], 3)]])
    model = by_hand(network, {"b_w": gone(groups["Conv:a"], 3)})
    assert found == pytest.approx(expected(network, model) + expected(network, model, "r"), rel=5e-3)


def test_a_shift_of_all_scores_is_no_damage_but_one_of_a_single_output_is() -> None:
    """What no argmax can see does not count; a model with one number per sample has no such freedom."""
    single = made(weights={**WEIGHTS, "fc_w": (1, 7), "fc_b": (1,)}, signature=SIGNATURE.replace("5] y", "1] y"))
    groups = scored(single)
    (found,) = opened(single, groups).damage([[(groups["Conv:c"], 3)]])
    wanted, cut = (
        run(m, few(single))["y"].astype(np.float64)
        for m in (single.proto, by_hand(single, {"fc_w": gone(groups["Conv:c"], 3)}))
    )
    assert found == pytest.approx(((wanted - cut) ** 2).mean() / wanted.var(), rel=5e-3)


def test_an_output_that_never_varies_does_not_drown_the_others() -> None:
    """Over its variance, rounding of a constant output would count 10²⁸ times what any other does."""
    still, moved = np.full((4, 3, 2), 7.0), np.full((4, 3, 2), 7.7)
    assert _relative(still, moved) == pytest.approx(0.01)
    assert _relative(np.zeros((4, 3, 2)), moved) == pytest.approx(7.7**2)
    varied = np.arange(24.0).reshape(4, 3, 2)
    assert _relative(varied, varied + 1) == pytest.approx(1 / varied.var())


def test_what_the_body_of_an_if_reads_is_reached_too() -> None:
    body = BODY.replace("rh = Relu (r)", """m = ReduceMean <keepdims = 0> (x) big = Greater (m, zero)
    rh = If (big) <then_branch = t () => (float[N,5,6,6] o) { o = Relu (r) },
                   else_branch = e () => (float[N,5,6,6] u) { u = Relu (r) }>""")  # fmt: skip
    network = made(body, {**WEIGHTS, "zero": np.float32(0)})
    groups = scored(network)
    (found,) = opened(network, groups).damage([[(groups["Conv:a"], 3)]])
    model = by_hand(network, {"b_w": gone(groups["Conv:a"], 3)})
    assert found == pytest.approx(expected(network, model), rel=5e-3)


def test_a_group_without_measured_readers_has_no_price(plain: Net) -> None:
    found = score(plain.analysis, None, lookup("magnitude"), Options(), 0, plain.analysis.groups)
    prober = open_prober(plain.analysis, plain.layers, found, few(plain))
    assert prober.damage([[(found[0], 2)], [(found[0], 1)]]) == [0.0, 0.0]


def test_the_model_given_is_not_changed(plain: Net) -> None:
    before, groups = plain.proto.SerializeToString(), scored(plain)
    opened(plain, groups).damage([[(groups["Conv:s"], 2)]])
    assert ir.to_proto(plain.analysis.model).SerializeToString() == before
