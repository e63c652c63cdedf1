"""A new head: what it holds, that everything behind the old one stays, and where it is found."""

import numpy as np
import onnx
import pytest
from dense_mask import run
from graph_text import integers, model_from_text
from head_case import CONVS, DENSE, SIGNATURE, TAIL, headed, inputs, least_squares, seen_rows, values, vgg
from model_counts import constants, params
from pipeline_case import pictures
from topologies import TOPOLOGIES

from onnxprune.calibration.head_sums import RIDGES, HeadSums


def softmax(z: np.ndarray) -> np.ndarray:
    powers = np.exp(z - z.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def test_the_new_head_is_the_least_squares_of_explicit_rows() -> None:
    model, data = vgg(), inputs()
    result = headed(model, data)
    report, held = result.report.heads[0], constants(result.model)
    channels, scores = values(model, ["r1", "z"], seen_rows(model, data))
    assert report.samples == len(channels) == 128
    assert report.ridge in RIDGES
    weight, bias = least_squares(channels.mean((2, 3)), scores, report.ridge)
    np.testing.assert_allclose(held["z.head"], weight, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(held["z.head.bias"], bias, rtol=1e-4, atol=1e-5)


def test_what_stands_behind_the_last_layer_stays_and_nothing_else_of_the_tail() -> None:
    model = vgg()
    slim = headed(model).model
    kinds = [node.op_type for node in slim.graph.node]
    assert kinds == ["Conv", "Relu", "MaxPool", "Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm", "Softmax"]
    assert params(slim) == params(model) - sum(np.prod(DENSE[name]) for name in DENSE) + 12 * 5 + 5
    held = constants(slim)
    assert all(held[name].tobytes() == constants(model)[name].tobytes() for name in CONVS)
    assert slim.graph.output == model.graph.output
    for batch in (1, 3, 7):
        fresh = inputs(batch, seed=11)
        (channels,) = values(model, ["r1"], fresh)
        wanted = softmax(channels.mean((2, 3)) @ held["z.head"].T + held["z.head.bias"])
        np.testing.assert_allclose(run(slim, {"x": fresh})["y"], wanted, atol=1e-6)


def test_a_head_that_pooled_channels_can_tell_is_found_exactly() -> None:
    """Each FC feature is the mean of a channel, so the tail is linear in the pooled channels."""
    means = np.kron(np.eye(12), np.full((1, 16), 1 / 16)).astype(np.float32)
    tail = "f = Flatten (r1) a = Gemm <transB = 1> (f, m_w) r = Relu (a) y = Gemm <transB = 1> (r, e_w, e_b)"
    model = vgg(tail, {"m_w": means, "e_w": (5, 12), "e_b": (5,)})
    result, fresh = headed(model), inputs(16, seed=5)
    np.testing.assert_allclose(run(result.model, {"x": fresh})["y"], run(model, {"x": fresh})["y"], atol=2e-4)
    report = result.report.heads[0]
    assert report.error is not None
    assert report.error < 1e-6
    assert report.same_class == 1.0


@pytest.mark.parametrize("opset", [13, 18])
def test_channels_may_lie_on_the_last_axis(opset: int) -> None:
    tail = "t = Transpose <perm = [0, 2, 3, 1]> (r1)" + TAIL.replace("Flatten (r1)", "Flatten (t)")
    model = vgg(tail, opset=opset)
    slim = headed(model).model
    kinds = [node.op_type for node in slim.graph.node]
    assert kinds[-4:] == ["Transpose", "ReduceMean", "Gemm", "Softmax"]
    fresh, held = inputs(3, seed=11), constants(slim)
    (channels,) = values(model, ["t"], fresh)
    wanted = softmax(channels.mean((1, 2)) @ held["z.head"].T + held["z.head.bias"])
    np.testing.assert_allclose(run(slim, {"x": fresh})["y"], wanted, atol=1e-6)


def test_a_size_computed_at_run_time_is_no_path() -> None:
    flat = "s = Shape (x) b = Slice (s, from, to) k = Concat <axis = 0> (b, rest) f = Reshape (r1, k)"
    model = vgg(
        TAIL.replace("f = Flatten (r1)", flat),
        DENSE | {"from": integers(0), "to": integers(1)} | {"rest": integers(-1)},
    )
    assert headed(model).report.heads[0].source == "r1"


@pytest.mark.parametrize(("rank", "shape"), [(3, (3, 16)), (5, (3, 4, 4, 4))])
def test_sequences_and_volumes_are_pooled_over_all_their_positions(rank: int, shape: tuple[int, ...]) -> None:
    sides = ", ".join(map(str, shape[1:]))
    features = 6 * int(np.prod(shape[1:]))
    body = "c = Conv (x, c_w, c_b) r = Relu (c) f = Flatten (r) d = Gemm <transB = 1> (f, d_w, d_b) q = Tanh (d)"
    body += " y = Gemm <transB = 1> (q, e_w, e_b)"
    kernel = (6, 3, *[1] * (rank - 2))
    weights = {"c_w": kernel, "c_b": (6,), "d_w": (16, features), "d_b": (16,), "e_w": (4, 16), "e_b": (4,)}
    model = model_from_text(f"(float[N, 3, {sides}] x) => (float[N, 4] y)", body, weights)
    data = np.random.default_rng(0).standard_normal((200, *shape)).astype(np.float32)
    result = headed(model, data)
    (channels,) = values(model, ["r"], data[:5])
    held = constants(result.model)
    wanted = channels.mean(tuple(range(2, rank))) @ held["y.head"].T + held["y.head.bias"]
    np.testing.assert_allclose(run(result.model, {"x": data[:5]})["y"], wanted, atol=1e-5)


def test_layers_written_as_convolutions_are_a_tail_as_well() -> None:
    tail = """
    h2 = Conv (r1, d_w, d_b)
    r2 = Relu (h2)
    z = Conv (r2, e_w, e_b)
    s = Sigmoid (z)
    y = Flatten (s)
    """
    model = vgg(tail, {"d_w": (24, 12, 4, 4), "d_b": (24,), "e_w": (5, 24, 1, 1), "e_b": (5,)})
    slim, fresh = headed(model).model, inputs(3, seed=11)
    assert [node.op_type for node in slim.graph.node][-4:] == ["Gemm", "Reshape", "Sigmoid", "Flatten"]
    assert run(slim, {"x": fresh})["y"].shape == (3, 5)


def test_a_bias_that_is_added_behind_the_last_layer_goes_with_it() -> None:
    tail = TAIL.replace("z = Gemm <transB = 1> (o2, e_w, e_b)", "m = MatMul (o2, e_w) z = Add (m, e_b)")
    slim = headed(vgg(tail, DENSE | {"e_w": (24, 5)})).model
    assert [node.op_type for node in slim.graph.node][-2:] == ["Gemm", "Softmax"]


def test_short_floats_stay_short() -> None:
    model = onnx.load_from_string(vgg().SerializeToString())
    for tensor in model.graph.initializer:
        tensor.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
        )
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    slim, fresh = headed(model, inputs().astype(np.float16)).model, inputs(3, seed=11).astype(np.float16)
    assert constants(slim)["z.head"].dtype == np.float16
    assert run(slim, {"x": fresh})["y"].dtype == np.float16


def test_a_cast_on_the_way_is_kept() -> None:
    tail = TAIL.replace("h2 = Gemm <transB = 1> (f,", "w = Cast <to = 11> (f) h2 = Gemm <transB = 1> (w,")
    wide = {name: np.random.default_rng(1).standard_normal(shape) / 10 for name, shape in DENSE.items()}  # type: ignore[arg-type]
    model = vgg(tail, wide, SIGNATURE.replace("(float[N, 5] y)", "(double[N, 5] y)"))
    slim, fresh = headed(model).model, inputs(3, seed=11)
    assert constants(slim)["z.head"].dtype == np.float64
    held = constants(slim)
    (channels,) = values(model, ["r1"], fresh)
    wanted = softmax(channels.mean((2, 3)) @ held["z.head"].T + held["z.head.bias"])
    np.testing.assert_allclose(run(slim, {"x": fresh})["y"], wanted, atol=1e-6)


def test_a_residual_body_gets_a_head_and_is_pruned_behind_it() -> None:
    body = """
    h0 = Conv <pads = [1, 1, 1, 1]> (x, a_w, a_b)
    r0 = Relu (h0)
    h1 = Conv <pads = [1, 1, 1, 1]> (r0, b_w, b_b)
    r1 = Relu (h1)
    h2 = Conv <pads = [1, 1, 1, 1]> (r1, c_w, c_b)
    s = Add (h2, r0)
    r2 = Relu (s)
    f = Flatten (r2)
    h3 = Gemm <transB = 1> (f, d_w, d_b)
    r3 = Relu (h3)
    y = Gemm <transB = 1> (r3, e_w, e_b)
    """
    weights = {"a_w": (8, 3, 3, 3), "a_b": (8,), "b_w": (8, 8, 3, 3), "b_b": (8,), "c_w": (8, 8, 3, 3), "c_b": (8,)}
    model = model_from_text(SIGNATURE, body, weights | {"d_w": (16, 512), "d_b": (16,), "e_w": (5, 16), "e_b": (5,)})
    result = headed(model, method="obs", rebuild="lsq", macs=0.6)
    assert result.report.heads[0].source == "r2"
    assert result.report.proof < 1e-5
    assert result.report.after.macs <= 0.6 * result.report.before.macs


@pytest.mark.parametrize("name", [name for name in TOPOLOGIES if "vgg" in name])
def test_exported_networks_get_heads(name: str) -> None:
    model = TOPOLOGIES[name]()
    shape = tuple(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim)[1:]
    result = headed(model, {model.graph.input[0].name: pictures(200, shape)})
    assert result.report.after.params < result.report.before.params
    assert [value.name for value in result.model.graph.output] == [value.name for value in model.graph.output]


def test_rows_that_vary_in_fewer_directions_than_channels_are_solved() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 2)) @ rng.standard_normal((2, 6))
    x[:, 0] = 3.0
    sums = HeadSums(6, 3)
    y = x @ rng.standard_normal((6, 3)) + 1
    for rows in np.split(np.arange(64), 4):
        sums.add(x[rows], y[rows])
    fit = sums.solve(classes=False)
    assert sums.count == 64
    np.testing.assert_allclose(x @ fit.weight.T + fit.bias, y, atol=1e-3)
    assert fit.same_class is None
    assert fit.weight[:, 0].tolist() == [0.0] * 3


def test_a_single_batch_of_few_rows_is_solved_without_a_judge() -> None:
    sums = HeadSums(2, 1)
    sums.add(np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), np.array([[1.0], [2.0], [3.0]]))
    fit = sums.solve(classes=False)
    assert fit.error is None
    assert np.isfinite(fit.weight).all()
