"""Numbers go back into the quanta they came from: nearest, on the same grid, through whatever lies between."""

import numpy as np
import onnx_ir as ir
import pytest
from dense_mask import run
from model_counts import constants
from pipeline_case import error, pictures, prune
from quantise_case import QDQ, QOPERATOR, UINT8, static
from removal import analysed, proto
from topologies import TOPOLOGIES
from topologies_quantised import model_of, quanta, real, scales

from onnxprune.constants import constant_array
from onnxprune.graph import values_by_name
from onnxprune.layers import solvable
from onnxprune.model_io import load
from onnxprune.op_rules.stored import stored, write
from onnxprune.passes.add_bias import add_bias
from onnxprune.passes.fold_batchnorm import fold_batchnorm
from onnxprune.passes.normalise import normalise

WHOLE = quanta((6, 4), 0)
CHAINS = {
    "a scale for all": ("w = DequantizeLinear (q, s, z)", {"q": WHOLE, "s": scales((), 1), "z": np.int8(3)}),
    "a scale for each column": (
        "w = DequantizeLinear <axis = 1> (q, s, z)",
        {"q": WHOLE, "s": scales((4,), 1), "z": quanta((4,), 2) // 8},
    ),
    "a scale for each block": (
        "w = DequantizeLinear <axis = 0, block_size = 4> (q, s)",
        {"q": WHOLE, "s": scales((2, 4), 1)},
    ),
    "transposed": (
        "d = DequantizeLinear <axis = 0> (q, s)  w = Transpose <perm = [1, 0]> (d)",
        {"q": WHOLE.T, "s": scales((4,), 1)},
    ),
    "numbers in the file": (
        "i = QuantizeLinear (f, s, z)  w = DequantizeLinear (i, s, z)",
        {"f": real((6, 4), 0), "s": np.float32(0.01), "z": np.int8(0)},
    ),
    "half precision": ("w = Cast <to = 1> (h)", {"h": real((6, 4), 0).astype(np.float16)}),
}


def chain(name: str) -> ir.Model:
    body, tensors = CHAINS[name]
    return ir.from_proto(model_of("(float[N, 6] x) => (float[N, 4] y)", f"{body}  y = MatMul (x, w)", tensors))


def folded(name: str):
    normal = normalise(load(TOPOLOGIES[name]()).model)
    layers = [node.name or "" for node in normal.graph if node.op_type in ("Conv", "Gemm", "MatMul")]
    return proto(add_bias(fold_batchnorm(normal, layers), layers))


@pytest.mark.parametrize("name", CHAINS)
def test_what_is_written_is_read_again_as_near_as_the_grid_allows(name: str) -> None:
    model = chain(name)
    value = values_by_name(model)["w"]
    before = constant_array(model, value)
    wanted = before * 0.9  # between the numbers of the grid, and inside its range
    write(value, wanted)
    assert np.abs(constant_array(model, value) - wanted).max() <= (1e-3 if name == "half precision" else 0.015)


@pytest.mark.parametrize("name", CHAINS)
def test_the_initializer_behind_a_chain_is_found(name: str) -> None:
    found = stored(values_by_name(chain(name))["w"])
    assert found is not None
    assert found.is_initializer()


def test_quanta_that_a_weight_does_not_use_are_not_written() -> None:
    tensors = {"q": WHOLE // 2, "s": scales((), 1)}
    body = "w = DequantizeLinear (q, s)  y = MatMul (x, w)"
    seven_bits = ir.from_proto(model_of("(float[N, 6] x) => (float[N, 4] y)", body, tensors))
    values = values_by_name(seven_bits)
    write(values["w"], np.full((6, 4), 100.0))
    assert constant_array(seven_bits, values["q"]).max() == tensors["q"].max() < 64


def test_a_weight_that_two_layers_read_is_not_written() -> None:
    body = "w = DequantizeLinear (q, s)  a = MatMul (x, w)  b = MatMul (x, w)  y = Add (a, b)"
    tensors = {"q": quanta((6, 4), 0), "s": scales((), 1)}
    model = ir.from_proto(model_of("(float[N, 6] x) => (float[N, 4] y)", body, tensors))
    assert stored(values_by_name(model)["w"]) is None


@pytest.mark.parametrize("per_channel", [False, True], ids=["one scale", "a scale a channel"])
def test_solving_a_quantised_network_again_halves_its_error_and_keeps_its_grid(per_channel: bool) -> None:
    float_model = folded("vgg-text")
    model = static(float_model, quant_format=QDQ, per_channel=per_channel, activation_type=UINT8)
    data, others = pictures(128), pictures(64, seed=9)
    solved, cut = (prune(model, data, samples=128, macs=0.6, rebuild=rebuild) for rebuild in ("lsq", "none"))
    assert solved.report.proof == cut.report.proof == 0.0
    assert error(solved.model, model, others) < 0.7 * error(cut.model, model, others)
    before, after = constants(model), constants(solved.model)
    grids = [name for name in after if name.endswith(("_scale", "_zero_point")) and before[name].ndim == 0]
    assert grids
    assert all(after[name] == before[name] for name in grids)
    assert {name: array.dtype for name, array in after.items()} == {name: before[name].dtype for name in after}


def test_a_layer_in_whole_numbers_is_cut_and_not_solved() -> None:
    case = analysed(static(folded("vgg-text"), quant_format=QDQ))
    assert {linear.node.op_type for linear in solvable(case.analysis)} == {"Conv", "Gemm"}
    assert solvable(analysed(static(folded("vgg-text"), quant_format=QOPERATOR)).analysis) == []


def test_a_float_layer_in_front_of_quanta_is_proved_node_by_node() -> None:
    """Fused and blocked kernels add in an order that depends on the width, and half a quantum is a coin's toss."""
    model = TOPOLOGIES["inception-text"]()
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}{index}"
    excluded = [node.name for node in model.graph.node if node.op_type == "Conv"][::2]
    mixed = static(model, quant_format=QDQ, activation_type=UINT8, nodes_to_exclude=excluded)
    data = np.random.default_rng(0).standard_normal((64, 3, 12, 12)).astype(np.float32)
    result = prune(mixed, data, method="magnitude", rebuild="none", ratio=0.4)
    assert result.report.proof < 1e-5
    assert len(result.plan.groups) == 8
    assert run(result.model, {"x": data[:2]})["y"].shape == (2, 5)
