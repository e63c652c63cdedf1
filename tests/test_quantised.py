"""Graphs in quanta: what a removal leaves is what masking leaves, to the last bit; scales and zero points follow."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from dense_mask import run
from model_counts import constants
from op_case import facts_of, fixed, outs, params
from pipeline_case import pictures, prune
from quantise_case import QUANTISERS, quantised, worst_of_removals
from removal import Case, analysed, proto
from topologies import TOPOLOGIES
from topologies_quantised import QUANTISED_TOPOLOGIES, model_of, quanta, real, scales

from onnxprune.constants import computed_constants, constant_array
from onnxprune.costs import cost_model
from onnxprune.op_rules.facts import Linear, Lines
from onnxprune.passes.remove import remove
from onnxprune.passes.scatter import scatter
from onnxprune.weights import weight_of

NETWORKS = ("resnet-text", "vgg-text", "inception-text", "mobilenet-v2-text", "densenet-text", "shufflenet-text")
REAL = ("four-bits", "runtime-layers", "half-precision-weights")
"""Their layers add real numbers, in another order where fewer are left."""


def by_hand(name: str) -> Case:
    return analysed(QUANTISED_TOPOLOGIES[name]())


def slim(case: Case, **removed: list[int]) -> dict[str, np.ndarray]:
    groups = {name.replace("_", ":"): positions for name, positions in removed.items()}
    return constants(proto(remove(case.analysis, case.analysis.keep_without(groups))))


def layer(case: Case, name: str) -> Linear:
    return next(linear for linear in case.analysis.linears if linear.node.name == name)


@pytest.mark.parametrize("kind", QUANTISERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_any_removal_from_a_quantised_network_leaves_the_very_numbers_that_masking_leaves(name: str, kind: str) -> None:
    assert worst_of_removals(analysed(quantised(name, kind))) == 0.0


@pytest.mark.parametrize("name", QUANTISED_TOPOLOGIES)
def test_any_removal_from_quanta_written_by_hand_leaves_what_masking_leaves(name: str) -> None:
    assert worst_of_removals(by_hand(name)) <= (1e-6 if name in REAL else 0.0)


@pytest.mark.parametrize("kind", QUANTISERS)
def test_quantising_a_network_closes_none_of_its_groups(kind: str) -> None:
    plain, found = analysed(TOPOLOGIES["resnet-text"]()), analysed(quantised("resnet-text", kind))
    assert sorted(found.widths().values()) == sorted(plain.widths().values())


def test_scales_of_a_per_channel_weight_are_cut_and_those_of_a_tensor_stay() -> None:
    case = by_hand("trained-with-quanta")
    before, after = constants(proto(case.analysis.model)), slim(case, Conv_h0=[1, 7], Conv_h1=[0, 4])
    stays = [i for i in range(12) if i not in (1, 7)]
    for name in ("w0", "s0", "z0", "b0"):
        np.testing.assert_array_equal(after[name], before[name][stays])
    assert after["s1"] == before["s1"]
    np.testing.assert_array_equal(after["sp"], before["sp"][[1, 2, 3, 5, 6, 7]])


def test_four_bit_weights_keep_their_type_and_numbers() -> None:
    case = by_hand("four-bits")
    before, after = constants(proto(case.analysis.model)), slim(case, MatMul_h0=[0, 17])
    assert after["q0"].dtype == before["q0"].dtype
    np.testing.assert_array_equal(after["q0"].astype(int), before["q0"][:, 1:17].astype(int))
    np.testing.assert_array_equal(after["q1"].astype(int), before["q1"][:, 1:17].astype(int))


def test_inputs_of_a_blocked_weight_go_by_whole_blocks() -> None:
    case = by_hand("four-bits")
    before, after = constants(proto(case.analysis.model)), slim(case, Gemm_h1=[1])
    stays = [*range(8), *range(16, 28)]
    np.testing.assert_array_equal(after["q2"].astype(int), before["q2"][stays].astype(int))
    np.testing.assert_array_equal(after["s2"], before["s2"][[0, 2, 3]])
    np.testing.assert_array_equal(after["z1"].astype(int), before["z1"][stays].astype(int))


def test_packed_weights_lose_outputs_one_by_one_and_inputs_by_blocks() -> None:
    case = by_hand("runtime-layers")
    model = proto(
        remove(case.analysis, case.analysis.keep_without({"MatMulNBits:h3": [0], "MatMulIntegerToFloat:h1": [2]}))
    )
    shapes = {name: array.shape for name, array in constants(model).items()}
    assert (shapes["q2"], shapes["s2"]) == ((48, 2, 8), (48, 2))
    assert (shapes["q3"], shapes["s3"], shapes["z3"]) == ((4, 3, 8), (4, 3), (4, 2))
    attributes = {node.name: {a.name: a.i for a in node.attribute} for node in model.graph.node}
    assert (attributes["MatMulNBits:h2"]["K"], attributes["MatMulNBits:h2"]["N"]) == (32, 48)
    assert (attributes["MatMulNBits:h3"]["K"], attributes["MatMulNBits:h3"]["N"]) == (48, 4)


def test_bytes_that_hold_zeros_of_two_blocks_keep_the_inputs_whole() -> None:
    assert by_hand("runtime-layers").reasons()["MatMulNBits:h2"].startswith("MatMulNBits packs the numbers of several")


def test_the_wide_graph_holds_zero_points_where_a_removed_channel_is_read() -> None:
    case = by_hand("runtime-operators")
    keep = case.analysis.keep_without({"QGemm:h": [3, 5]})
    wide = constants(proto(scatter(case.analysis, remove(case.analysis, keep), keep)))
    assert wide["wo"][:, [3, 5]].tolist() == [[130, 130]] * 5
    np.testing.assert_array_equal(wide["wh"], constants(proto(case.analysis.model))["wh"])


@pytest.mark.parametrize("node", ["MatMulNBits:h2", "MatMulNBits:h3", "MatMulNBits:y"])
def test_packed_weights_are_read_as_the_runtime_multiplies_them(node: str) -> None:
    model = QUANTISED_TOPOLOGIES["runtime-layers"]()
    case = analysed(model)
    linear = layer(case, node)
    weight = weight_of(case.analysis.model, linear)
    names = [linear.x.name or "", linear.y.name or ""]
    values = run(model, case.inputs, names)
    bias = constants(model)["b4"] if node.endswith("y") else 0.0
    np.testing.assert_allclose(values[names[0]] @ weight + bias, values[names[1]], rtol=1e-4, atol=1e-4)


def test_a_layer_in_quanta_is_scored_by_the_numbers_they_stand_for() -> None:
    case = analysed(quantised("vgg-text", "qoperator-per-channel"))
    original = constants(TOPOLOGIES["vgg-text"]())["c1_w"]
    weight = weight_of(case.analysis.model, layer(case, "QLinearConv:c1_quantized"))
    assert np.abs(weight - original).max() < np.abs(original).max() / 100


def test_multiply_adds_and_parameters_are_those_of_the_network_in_numbers() -> None:
    plain, found = (cost_model(analysed(m).analysis) for m in (TOPOLOGIES["vgg-text"](), quantised("vgg-text", "qdq")))
    assert found.macs(found.full) == plain.macs(plain.full)
    assert found.macs(found.full * 0.5) == pytest.approx(plain.macs(plain.full * 0.5))
    assert found.params(found.full) == sum(
        v.size for v in constants(proto(analysed(quantised("vgg-text", "qdq")).analysis.model)).values()
    )


def test_computed_constants_are_those_with_nothing_but_initializers_behind_them() -> None:
    body = """
    d = DequantizeLinear (q, s)
    t = Transpose (d)
    drawn = RandomUniformLike (t)
    h = MatMul (x, t)
    y = Add (h, drawn)
    """
    signature = "(float[N, 4] x) => (float[4, 4] y)"
    model = ir.from_proto(model_of(signature, body, {"q": quanta((4, 4), 0), "s": scales((), 1)}))
    found = computed_constants(model)
    assert sorted(value.name or "" for value in found) == ["d", "t"]
    tensors = {name: value.const_value.numpy() for name, value in model.graph.initializers.items() if value.const_value}
    (transposed,) = (value for value in found if value.name == "t")
    np.testing.assert_allclose(constant_array(model, transposed), (tensors["q"] * tensors["s"]).T)


def test_a_weight_that_an_operator_without_backward_rule_makes_stays_whole_and_says_so() -> None:
    body = """
    d = DequantizeLinear (q, s)
    w = Tanh (d)
    h = MatMul (x, v)
    y = MatMul (h, w)
    """
    tensors = {"q": quanta((6, 4), 0), "s": scales((), 1), "v": real((4, 6), 2)}
    case = analysed(model_of("(float[N, 4] x) => (float[N, 4] y)", body, tensors))
    assert case.reasons()["MatMul:h"] == "a constant along it is computed by Tanh (Tanh:w)"


def test_a_dequantised_weight_that_two_layers_read_in_two_ways_stays_whole() -> None:
    body = """
    w = DequantizeLinear (q, s)
    h = MatMul (x, w)
    r = Relu (h)
    y = MatMul (r, w)
    """
    case = analysed(model_of("(float[N, 6] x) => (float[N, 6] y)", body, {"q": quanta((6, 6), 0), "s": scales((), 1)}))
    assert case.widths() == {}


def test_a_dequantised_weight_that_two_layers_read_alike_is_cut_once() -> None:
    body = """
    w = DequantizeLinear <axis = 1> (q, s)
    a = MatMul (x, w)
    ar = Relu (a)
    z = Neg (x)
    b = MatMul (z, w)
    br = Relu (b)
    j = Sub (ar, br)
    y = MatMul (j, v)
    """
    tensors = {"q": quanta((6, 8), 0), "s": scales((8,), 1), "v": real((8, 3), 2)}
    case = analysed(model_of("(float[N, 6] x) => (float[N, 3] y)", body, tensors))
    assert case.widths() == {"MatMul:a": 8}
    assert worst_of_removals(case) <= 1e-6


def test_a_scale_for_each_channel_is_cut_and_one_for_all_is_not() -> None:
    image, atoms = {"x": (2, 4, 5, 5)}, {"x": {(1,): [0, 1, 2, 3]}}
    vectors = {"s": np.ones(4, np.float32), "z": np.zeros(4, np.uint8)}
    facts = facts_of("y = QuantizeLinear (x, s, z)", image, atoms, vectors)
    assert params(facts, 1) == params(facts, 2) == {(0,): ([0, 1, 2, 3], False)}
    assert outs(facts) == {(1,): [0, 1, 2, 3]}
    facts = facts_of("y = QuantizeLinear (x, s, z)", image, atoms, {"s": np.float32(1), "z": np.uint8(0)})
    assert params(facts, 1) == params(facts, 2) == {}


def test_a_scale_for_each_line_of_spread_channels_goes_with_the_whole_line() -> None:
    vectors = {"s": np.ones(2, np.float32), "z": np.zeros(2, np.uint8)}
    atoms = [[0, 1, 2], [3, 4, 5]]
    facts = facts_of("y = QuantizeLinear (x, s, z)", {"x": (2, 2, 3)}, {"x": {(1, 2): atoms}}, vectors)
    lines = [fact for fact in facts if isinstance(fact, Lines)]
    assert [(fact.label.atoms.tolist(), fact.axis, fact.atoms.tolist()) for fact in lines] == [
        (atoms, 0, [100, 101]),
        (atoms, 0, [102, 103]),
    ]
    assert [params(facts, index) for index in (1, 2)] == [{(0,): ([100, 101], False)}, {(0,): ([102, 103], False)}]
    assert fixed(facts) == []


@pytest.mark.parametrize("kind", ["qdq", "qdq-per-channel", "qoperator", "dynamic"])
@pytest.mark.parametrize("options", [{"method": "magnitude", "rebuild": "none"}, {}], ids=["magnitude", "default"])
def test_a_quantised_network_is_pruned_and_proved_bit_by_bit(kind: str, options: dict) -> None:
    model = quantised("resnet-text", kind)
    result = prune(model, pictures(48), **options)
    assert result.report.proof == 0.0
    before, after = (sum(t.size for t in constants(m).values()) for m in (model, result.model))
    assert after < 0.75 * before
    assert result.model.graph.node
    onnx.checker.check_model(result.model)
