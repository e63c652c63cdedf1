"""What removal changes in the file: constants, sizes, attributes and declared shapes, and nothing else."""

import numpy as np
import onnx
import onnx_ir as ir
from graph_text import Weights, integers, model_from_text
from removal import Case, analysed, proto
from topologies import TOPOLOGIES

from onnxprune.passes.remove import remove
from onnxprune.passes.scatter import scatter


def slim(case: Case, **removed: list[int]) -> ir.Model:
    return remove(case.analysis, case.analysis.keep_without({name.replace("_", ":"): r for name, r in removed.items()}))


def constant(model: ir.Model, name: str) -> np.ndarray:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def node(model: ir.Model, name: str) -> ir.Node:
    return next(n for n in model.graph if n.name == name)


def read_by(model: ir.Model, name: str, index: int) -> list[int]:
    value = node(model, name).inputs[index]
    assert value is not None and value.const_value is not None
    return value.const_value.numpy().tolist()


def test_weights_are_sliced_on_both_sides_and_keep_their_names() -> None:
    case = analysed(TOPOLOGIES["resnet-text"]())
    pruned = slim(case, Conv_a=[0, 4])
    kept = [1, 2, 3, 5, 6, 7, 8, 9]
    before = case.analysis.model
    np.testing.assert_array_equal(constant(pruned, "a_w"), constant(before, "a_w")[kept])
    np.testing.assert_array_equal(constant(pruned, "b_w"), constant(before, "b_w")[:, kept])
    np.testing.assert_array_equal(constant(pruned, "n1_gamma"), constant(before, "n1_gamma")[kept])
    untouched = set(before.graph.initializers) - {"a_w", "b_w", *(f"n1_{k}" for k in ("gamma", "beta", "mean", "var"))}
    assert all(constant(pruned, n).tobytes() == constant(before, n).tobytes() for n in untouched)
    assert set(pruned.graph.initializers) == set(before.graph.initializers)


def test_removing_nothing_changes_not_one_byte() -> None:
    for name in ("resnet-text", "axis-play-text", "shufflenet-text", "yolo-head-text"):
        case = analysed(TOPOLOGIES[name]())
        before = proto(case.analysis.model).SerializeToString(deterministic=True)
        assert proto(remove(case.analysis, case.analysis.keep_all())).SerializeToString(deterministic=True) == before


def test_the_analysed_model_is_not_changed() -> None:
    case = analysed(TOPOLOGIES["mobilenet-v2-text"]())
    before = proto(case.analysis.model).SerializeToString(deterministic=True)
    slim(case, Conv_e0=[0, 1, 2])
    assert proto(case.analysis.model).SerializeToString(deterministic=True) == before


def test_the_group_of_a_depthwise_convolution_follows() -> None:
    pruned = slim(analysed(TOPOLOGIES["mobilenet-v2-text"]()), Conv_e0=[0, 1, 2], Conv_e1=[5])
    assert node(pruned, "Conv:d0").attributes["group"].as_int() == 13
    assert node(pruned, "Conv:d1").attributes["group"].as_int() == 11
    assert constant(pruned, "d1_w").shape == (22, 1, 3, 3)


def test_a_grouped_weight_loses_different_columns_in_each_group() -> None:
    body = "c0 = Conv (x, c0_w) h = Relu (c0) c1 = Conv <group=2> (h, c1_w) y = Conv (c1, y_w)"
    weights: Weights = {"c0_w": (6, 3, 1, 1), "c1_w": (4, 3, 1, 1), "y_w": (2, 4, 1, 1)}
    case = analysed(model_from_text("(float[N,3,4,4] x) => (float[N,2,4,4] y)", body, weights))
    assert (case.group("Conv:c0").row_count, case.group("Conv:c1").row_count) == (2, 2)
    pruned, before = slim(case, Conv_c0=[0, 5]), constant(case.analysis.model, "c1_w")
    np.testing.assert_array_equal(constant(pruned, "c1_w")[:2], before[:2, [1, 2]])
    np.testing.assert_array_equal(constant(pruned, "c1_w")[2:], before[2:, [0, 1]])
    assert node(pruned, "Conv:c1").attributes["group"].as_int() == 2


def test_split_sizes_in_inputs_and_attributes_follow() -> None:
    pruned = slim(analysed(TOPOLOGIES["old-opset-text"]()), **{"Conv_c0": [0], "Conv_c0#2": [1, 2]})
    split = next(n for n in pruned.graph if n.op_type == "Split")
    assert list(split.attributes["split"].as_ints()) == [3, 3, 2]
    pruned = slim(analysed(TOPOLOGIES["yolo-head-text"]()), **{"Conv_c0": [0], "Conv_c0#2": [1, 2]})
    assert read_by(pruned, next(n.name or "" for n in pruned.graph if n.op_type == "Split"), 1) == [7, 6]


def test_a_split_into_equal_parts_is_given_sizes() -> None:
    body = "h = Conv (x, h_w) a, b = Split <axis=1, num_outputs=2> (h) k = Concat <axis=1> (a, b) y = Conv (k, y_w)"
    weights: Weights = {"h_w": (6, 3, 1, 1), "y_w": (2, 6, 1, 1)}
    case = analysed(model_from_text("(float[N,3,4,4] x) => (float[N,2,4,4] y)", body, weights, opset=18, ir=8))
    (first, second) = case.analysis.groups
    pruned = remove(case.analysis, case.analysis.keep_without({first.name: [0, 1], second.name: [2]}))
    split = next(n for n in pruned.graph if n.op_type == "Split")
    assert read_by(pruned, split.name or "", 1) == [1, 2]
    assert "num_outputs" not in split.attributes
    onnx.checker.check_model(proto(pruned), full_check=True)


def test_slice_bounds_and_shared_size_constants_get_values_of_their_own() -> None:
    case = analysed(TOPOLOGIES["axis-play-text"]())
    pruned = slim(case, Conv_c0=[0, 1, 7])
    tail = next(n for n in pruned.graph if n.op_type == "Slice" and "tail" in (n.outputs[0].name or ""))
    assert read_by(pruned, tail.name or "", 1) == [5]
    assert constant(pruned, "one").tolist() == [1]


def test_a_reshape_target_follows_and_zero_and_minus_one_stay() -> None:
    pruned = slim(analysed(TOPOLOGIES["mobilenet-v2-text"]()), Conv_last=[0, 1, 2, 3])
    reshape = next(n for n in pruned.graph if n.op_type == "Reshape")
    assert read_by(pruned, reshape.name or "", 1) == [-1, 12]
    assert constant(pruned, "fc_w").shape == (5, 12)


def test_a_flattened_channel_takes_its_positions_along() -> None:
    case = analysed(TOPOLOGIES["vgg-text"]())
    pruned, before = slim(case, Conv_c1=[2]), constant(case.analysis.model, "f0_w")
    np.testing.assert_array_equal(constant(pruned, "f0_w"), np.delete(before, range(32, 48), axis=0))


def test_gathered_indices_are_dropped_and_numbered_anew() -> None:
    body = "h = Conv (x, h_w) g = Gather <axis=1> (h, k) y = Conv (g, y_w)"
    weights: Weights = {"h_w": (6, 3, 1, 1), "y_w": (2, 3, 1, 1), "k": integers(5, -4, 3)}
    case = analysed(model_from_text("(float[N,3,4,4] x) => (float[N,2,4,4] y)", body, weights))
    # 0, 1 and 4 are not picked, so they lie in fewer places than 2, 3 and 5.
    unpicked, picked = case.analysis.groups
    assert (unpicked.width, picked.width) == (3, 3)
    pruned = remove(case.analysis, case.analysis.keep_without({unpicked.name: [1], picked.name: [0]}))
    assert read_by(pruned, "Gather:g", 1) == [3, 1]
    np.testing.assert_array_equal(constant(pruned, "y_w"), constant(case.analysis.model, "y_w")[:, [0, 2]])


def test_declared_shapes_follow_and_no_intermediate_shape_is_false() -> None:
    model = onnx.shape_inference.infer_shapes(TOPOLOGIES["resnet-text"]())
    pruned = slim(analysed(model), Conv_a=[0, 4], Conv_s=[1])
    shapes = {v.name: v.shape for n in pruned.graph for v in n.outputs}
    assert shapes["ar"] is not None and list(shapes["ar"].dims)[1] == 8
    assert shapes["h1"] is not None and list(shapes["h1"].dims)[1] == 7
    assert shapes["y"] is not None and list(shapes["y"].dims)[1] == 10
    onnx.checker.check_model(proto(pruned), full_check=True)


def test_scatter_puts_final_weights_back_and_zeros_where_removed_channels_are_read() -> None:
    case = analysed(TOPOLOGIES["resnet-text"]())
    keep = case.analysis.keep_without({"Conv:a": [0, 4]})
    pruned = remove(case.analysis, keep)
    final = np.full_like(constant(pruned, "b_w"), 7)
    pruned.graph.initializers["b_w"].const_value = ir.tensor(final, name="b_w")
    wide = scatter(case.analysis, pruned, keep)
    b_w = constant(wide, "b_w")
    assert np.all(b_w[:, [0, 4]] == 0)
    assert np.all(np.delete(b_w, [0, 4], axis=1) == 7)
    assert constant(wide, "a_w").tobytes() == constant(case.analysis.model, "a_w").tobytes()
