"""NISP: scores of the final responses, handed back. The oracle runs the network of |W| forward on onnxruntime.

That network is linear, so what a channel counts in all is what the final responses say to ones at all its positions.
"""

import numpy as np
import onnx
import pytest
from dense_mask import run
from graph_text import Weights, batchnorm, model_from_text
from removal import Case, analysed

from onnxprune.final_responses import standing_last
from onnxprune.flow import Flow, Score
from onnxprune.nisp import propagate

ROUND = 1e-5
"""The oracle runs in fp32."""


def without_signs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights without signs, no biases; activations are left out by feeding what they pass."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    for tensor in plain.graph.initializer:
        array, kind = onnx.numpy_helper.to_array(tensor), tensor.name.rsplit("_", 1)[-1]
        if array.dtype == np.float32:
            kept = array * (kind not in ("b", "beta", "mean"))
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.abs(kept), tensor.name))
    return plain


def sweep(case: Case, keep: float = 1.0, seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The scores of all groups when a share of each stays, and the drawn ones of the final responses by name."""
    flow = Flow(case.analysis, ())
    rng, final, drawn = np.random.default_rng(seed), {}, {}
    for value in standing_last(case.analysis, flow):
        (label,) = flow.labels(value)
        part = rng.uniform(0.5, 2, label.atoms.shape)
        final[value], drawn[value.name or ""] = Score((part,), float(part.sum())), part
    groups = case.analysis.groups
    widths = [max(group.row_count, int(group.width * keep)) for group in groups]
    return propagate(case.analysis, flow, final, groups, widths), drawn


def owed(model: onnx.ModelProto, value: str, drawn: dict[str, np.ndarray]) -> np.ndarray:
    """What the final responses owe to each channel (axis 1) of a value: ones are added to it, and x is zero."""
    probed = without_signs(model)
    place = next(i for i, node in enumerate(probed.graph.node) if value in node.output)
    node = probed.graph.node[place]
    node.output[list(node.output).index(value)] = f"{value}_before"
    probed.graph.node.insert(place + 1, onnx.helper.make_node("Add", [f"{value}_before", "probe"], [value]))
    probed.graph.input.append(onnx.helper.make_tensor_value_info("probe", onnx.TensorProto.FLOAT, None))
    nothing = np.zeros(_input(model), np.float32)
    seen = [onnx.ValueInfoProto(name=name) for name in (f"{value}_before", *drawn)]
    probed.graph.output.extend(seen)
    shape = run(probed, {"x": nothing, "probe": np.zeros(1, np.float32)})[f"{value}_before"].shape
    total = np.zeros(shape[1])
    for channel in range(shape[1]):
        ones = np.zeros(shape, np.float32)
        ones[:, channel] = 1
        answers = run(probed, {"x": nothing, "probe": ones})
        total[channel] = sum(
            answers[name].reshape(part.size, -1).mean(axis=1) @ part.reshape(-1) for name, part in drawn.items()
        )
    return total


def _input(model: onnx.ModelProto) -> tuple[int, ...]:
    return (1, *(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]))


PICTURE = "(float[n, 3, 12, 12] x) => (float[n, 5] y)"
HEAD = "g = GlobalAveragePool (last) f = Flatten (g) y = Gemm <transB = 1> (f, fc_w, fc_b)"
CHAIN: Weights = {"a_w": (8, 3, 3, 3), "b_w": (6, 8, 3, 3), "fc_w": (5, 6), "fc_b": (5,)}
STREAM = (
    """a = Conv (x, a_w, a_b) r = Relu (a)
    b = Conv (r, b_w) bn = BatchNormalization (b, n_gamma, n_beta, n_mean, n_var) br = Relu (bn)
    c = Conv (br, c_w, c_b) s = Add (c, r) t = Relu (s)
    d = Conv (t, d_w) dr = Relu (d) e = Conv (dr, e_w) last = Add (t, e) """
    + HEAD
)
STREAM_WEIGHTS: Weights = {
    **{"a_w": (6, 3, 3, 3), "a_b": (6,), "b_w": (7, 6, 1, 1), "c_w": (6, 7, 1, 1), "c_b": (6,)},
    **{"d_w": (4, 6, 1, 1), "e_w": (6, 4, 1, 1), "fc_w": (5, 6), "fc_b": (5,)},
    **batchnorm("n", 7),
}
NETWORKS: dict[str, tuple[str, Weights, str]] = {
    "a chain with strides and pools": (
        "a = Conv <strides = [2, 2]> (x, a_w) r = Relu (a) p = AveragePool <kernel_shape = [2, 2]> (r) "
        "last = Conv (p, b_w) " + HEAD,
        CHAIN | {"b_w": (6, 8, 2, 2)},
        "a last",
    ),
    "a residual block": (STREAM, STREAM_WEIGHTS, "e b d"),
    "a concatenation of a stream with itself": (
        "a = Conv (x, a_w) r = Relu (a) b = Conv (r, b_w) s = Add (r, b) c = Concat <axis = 1> (r, s) "
        "last = Conv (c, c_w) " + HEAD,
        {"a_w": (6, 3, 3, 3), "b_w": (6, 6, 1, 1), "c_w": (6, 12, 3, 3), "fc_w": (5, 6), "fc_b": (5,)},
        "b last",
    ),
    "a depthwise layer of two outputs a channel": (
        "a = Conv (x, a_w) r = Relu (a) d = Conv <group = 8> (r, d_w) last = Conv (d, b_w) " + HEAD,
        CHAIN | {"d_w": (16, 1, 3, 3), "b_w": (6, 16, 1, 1)},
        "a last",
    ),
    "a split, and an upsampling": (
        "a = Conv (x, a_w) l, r = Split <axis = 1> (a) u = Resize <mode = \"nearest\"> (l, , scales) "
        "b = Conv <strides = [2, 2]> (u, b_w) c = Conv (r, c_w) last = Add (b, c) " + HEAD,
        CHAIN | {"b_w": (6, 4, 2, 2), "c_w": (6, 4, 1, 1), "scales": np.float32([1, 1, 2, 2])},
        "a c",
    ),
    "a transposed convolution and a factor": (
        "a = Conv (x, a_w) m = Mul (a, k) t = ConvTranspose <strides = [2, 2], kernel_shape = [2, 2]> (m, t_w) "
        "last = Conv (t, b_w) " + HEAD,
        CHAIN | {"t_w": (8, 8, 2, 2), "k": np.linspace(-2, 2, 8, dtype=np.float32).reshape(8, 1, 1)},
        "a t last",
    ),
    "positions that a dense layer weighs one by one": (
        "a = Conv <strides = [3, 3]> (x, a_w) r = Relu (a) v = Flatten (r) last = Gemm <transB = 1> (v, b_w) "
        "y = Gemm <transB = 1> (last, fc_w, fc_b)",
        CHAIN | {"b_w": (6, 8 * 16)},
        "a last",
    ),
    "a tensor added to itself": (
        "a = Conv (x, a_w) d = Add (a, a) last = Conv (d, b_w) " + HEAD, CHAIN, "a last"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_channel_counts_what_the_network_of_absolute_weights_says_to_it(name: str) -> None:
    body, weights, where = NETWORKS[name]
    model = model_from_text(PICTURE, body, weights)
    case = analysed(model)
    found, drawn = sweep(case)
    assert len(found) == len(case.analysis.groups)
    assert {values[-1] for values in made(case).values()} == set(where.split())
    for group in case.analysis.groups:
        value = made(case)[group.name][-1]
        (label,) = (slot.label for slot in case.analysis.slots if slot.value.name == value and slot.reader is None)
        position = group.positions(case.analysis.units)[label.atoms]
        expected = owed(model, value, drawn)[position >= 0]
        np.testing.assert_allclose(found[group.name][position[position >= 0]], expected, rtol=ROUND)


def made(case: Case) -> dict[str, list[str]]:
    """What the layers write that make each group, in graph order; a depthwise one makes nothing new."""
    mixing = [(g.name, x.y.name or "") for g in case.analysis.groups for x in g.writers if x.refit]
    return {name: [value for other, value in mixing if other == name] for name, _ in mixing}


THREE = """h1 = Gemm <transB = 1> (x, w1) r1 = Relu (h1)
    h2 = Gemm <transB = 1> (r1, w2) r2 = Relu (h2) y = MatMul (r2, w3)"""
BY_HAND = {
    "w1": np.float32([[1, 2], [3, 4], [5, 6]]),
    "w2": np.float32([[1, -2, 3], [-4, 5, 0.5]]),
    "w3": np.float32([[7], [8]]),
}


def three_layers(widths: list[int], first: float = 2, second: float = 1) -> dict[str, np.ndarray]:
    """The scores of both hidden layers by the names of what they write, from given ones of the final responses."""
    case = analysed(model_from_text("(float[n, 2] x) => (float[n, 1] y)", THREE, BY_HAND))
    flow = Flow(case.analysis, ())
    (last,) = standing_last(case.analysis, flow)
    assert last.name == "r2"
    score = Score((np.array([first, second]),), first + second)
    found = propagate(case.analysis, flow, {last: score}, case.analysis.groups, widths)
    return {group.writers[0].y.name or "": found[group.name] for group in case.analysis.groups if group.name in found}


def test_three_layers_by_hand() -> None:
    found = three_layers([3, 2])
    np.testing.assert_allclose(found["h2"], [2, 1])
    np.testing.assert_allclose(found["h1"], [2 * 1 + 1 * 4, 2 * 2 + 1 * 5, 2 * 3 + 1 * 0.5])


def test_what_goes_hands_nothing_on() -> None:
    found = three_layers([3, 1])
    np.testing.assert_allclose(found["h2"], [2, 1])
    np.testing.assert_allclose(found["h1"], [2 * 1, 2 * 2, 2 * 3])
    np.testing.assert_allclose(three_layers([3, 1], first=1, second=3)["h1"], [3 * 4, 3 * 5, 3 * 0.5])


def test_what_goes_of_a_stream_hands_nothing_on_at_any_of_its_layers() -> None:
    """The same as if the lines of the stream's weights were zeros."""
    model = model_from_text(PICTURE, STREAM, STREAM_WEIGHTS)
    case = analysed(model)
    found, drawn = sweep(case, keep=0.5)
    (name,) = (name for name, values in made(case).items() if values == ["d"])
    (part,) = drawn.values()
    gone = np.argsort(part.reshape(-1))[:3]
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    for tensor in cut.graph.initializer:
        if tensor.name in ("c_w", "e_w"):
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[gone] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    np.testing.assert_allclose(found[name], owed(cut, "d", drawn), rtol=ROUND)


def test_scores_of_deep_networks_neither_overflow_nor_vanish() -> None:
    for scale in (1e30, 1e-30):
        layers = 24
        body = " ".join(f"h{i + 1} = MatMul (h{i}, m{i}_w)" for i in range(layers)) + f" y = MatMul (h{layers}, o_w)"
        rng = np.random.default_rng(1)
        weights: Weights = {f"m{i}_w": rng.standard_normal((4, 4)).astype(np.float32) for i in range(layers)}
        weights["o_w"] = (4, 2)
        large = {n: w * np.float32(scale) if n[0] == "m" else w for n, w in weights.items() if not isinstance(w, tuple)}
        text = "h0 = Relu (x) " + body
        signature = "(float[n, 4] x) => (float[n, 2] y)"
        plain, _ = sweep(analysed(model_from_text(signature, text, weights)))
        found, _ = sweep(analysed(model_from_text(signature, text, weights | large)))
        assert len(found) == layers
        for name, score in found.items():
            np.testing.assert_allclose(score / score.sum(), plain[name] / plain[name].sum(), rtol=ROUND)
