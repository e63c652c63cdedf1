"""The torch twin as a whole: what is a parameter, what a write-back changes, what a frozen name or a fallback means."""

import logging
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph_text import Weights, batchnorm, model_from_text

import onnxprune
from onnxprune import BadInput
from onnxprune.runtime import open_session, run

torch = pytest.importorskip("torch")

from onnxprune.torch_twin import fallback  # noqa: E402

RNG = np.random.default_rng(0)
NET = """
    c = Conv <pads = [1, 1, 1, 1]> (x, net.conv.w)
    n = BatchNormalization (c, bn_gamma, bn_beta, bn_mean, bn_var)
    r = Relu (n)
    p = GlobalAveragePool (r)
    f = Flatten (p)
    y = Gemm (f, fc_w, fc_b)
"""
WEIGHTS: Weights = {"net.conv.w": (4, 3, 3, 3), "fc_w": (4, 5), "fc_b": (5,), **batchnorm("bn", 4)}
IMAGES = RNG.standard_normal((2, 3, 6, 6)).astype(np.float32)


def net() -> onnx.ModelProto:
    body = NET.replace("net.conv.w", "conv_w")
    weights = {name.replace("net.conv.w", "conv_w"): value for name, value in WEIGHTS.items()}
    return model_from_text("(float[N, 3, 6, 6] x) => (float[N, 5] y)", body, weights)


def initializers(model: onnx.ModelProto) -> dict[str, bytes]:
    return {tensor.name: tensor.SerializeToString() for tensor in model.graph.initializer}


def test_parameters_are_the_constants_and_statistics_are_buffers() -> None:
    twin = onnxprune.to_torch(net())
    assert set(dict(twin.named_parameters())) == {"conv_w", "bn_gamma", "bn_beta", "fc_w", "fc_b"}
    assert set(dict(twin.named_buffers())) == {"bn_mean", "bn_var"}
    assert twin.input_names == ("x",) and twin.output_names == ("y",)


def test_a_dot_and_an_underscore_stay_two_tensors() -> None:
    proto = model_from_text(
        "(float[3] x) => (float[3] y)", "h = Mul (x, a_b) y = Add (h, a_c)", {"a_b": (3,), "a_c": (3,)}
    )
    for node in proto.graph.node:
        node.input[:] = ["a.b" if name == "a_c" else name for name in node.input]
    proto.graph.initializer[1].name = "a.b"
    twin = onnxprune.to_torch(proto)
    with torch.no_grad():
        twin.get_parameter("a_b").fill_(2.0)
        dict(twin.named_parameters())["a.b"].fill_(5.0)
    assert twin(torch.ones(3))["y"].tolist() == [7.0, 7.0, 7.0]
    written = {t.name: onnx.numpy_helper.to_array(t).tolist() for t in twin.write_back(proto).graph.initializer}
    assert written == {"a_b": [2.0] * 3, "a.b": [5.0] * 3}


def test_a_shared_initializer_is_one_parameter_with_the_sum_of_its_gradients() -> None:
    twin = onnxprune.to_torch(
        model_from_text("(float[2] x) => (float[2] y)", "h = Mul (x, w) y = Add (h, w)", {"w": (2,)})
    )
    twin(torch.tensor([3.0, 4.0]))["y"].sum().backward()
    (weight,) = twin.parameters()
    assert weight.grad.tolist() == [4.0, 5.0]


@pytest.mark.parametrize(
    ("attribute", "learned", "expected"),
    [
        ("value = float[2] {1.5, 2.5}", True, [1.5, 2.5]),
        ("value_floats = [1.5, 2.5]", True, [1.5, 2.5]),
        ("value_float = 1.5", False, [1.5, 1.5]),
        ("value_ints = [3, 4]", None, [3, 4]),
        ("value_int = 3", None, [3, 3]),
    ],
)
def test_constant_nodes_are_lifted(attribute: str, learned: bool | None, expected: list[float]) -> None:
    body = f"k = Constant <{attribute}> () c = Cast <to = 1> (k) y = Mul (x, c)"
    proto = model_from_text("(float[2] x) => (float[2] y)", body, {})
    twin = onnxprune.to_torch(proto)
    assert twin(torch.ones(2))["y"].tolist() == expected
    assert {name: p.requires_grad for name, p in twin.named_parameters()} == ({} if learned is None else {"k": learned})
    assert twin.write_back(proto).SerializeToString() == onnxprune.to_torch(proto).write_back(proto).SerializeToString()
    if learned:
        with torch.no_grad():
            twin.get_parameter("k").mul_(2)
        found = run(open_session(ir.from_proto(twin.write_back(proto))), {"x": np.ones(2, np.float32)})
        assert found["y"].tolist() == [3.0, 5.0]


def test_frozen_globs_and_single_numbers_have_no_gradient() -> None:
    proto = net()
    twin = onnxprune.to_torch(proto, frozen=["bn_*", "fc_b"])
    assert {n for n, p in twin.named_parameters() if p.requires_grad} == {"conv_w", "fc_w"}
    twin(torch.from_numpy(IMAGES))["y"].sum().backward()
    assert {n for n, p in twin.named_parameters() if p.grad is not None} == {"conv_w", "fc_w"}


ODD: Weights = {
    "half": np.array([1.1, np.nan, -0.0], np.float16),
    "brain": np.array([1.1, -2.7, np.inf], ml_dtypes.bfloat16),
    "double": np.array([0.1, 0.2, 0.3]),
    "small": np.array([-128, 0, 127], np.int8),
    "nibble": np.array([-8, 0, 7], ml_dtypes.int4),
    "tiny": np.array([0.5, -1.5, 448], ml_dtypes.float8_e4m3fn),
    "truth": np.array([True, False, True]),
    "long": np.array([1, 2**62, -3]),
    "many": np.array([1, 2**63, 3], np.uint64),
}


@pytest.mark.parametrize("external", [False, True])
def test_write_back_without_training_is_the_identity_byte_for_byte(tmp_path: Path, external: bool) -> None:
    casts = "\n".join(f"c{i} = Cast <to = 1> ({name})" for i, name in enumerate(ODD))
    total = "y = Sum (x, " + ", ".join(f"c{i}" for i in range(len(ODD))) + ")"
    proto = model_from_text("(float[3] x) => (float[3] y)", f"{casts}\n{total}", ODD, opset=21, ir=10)
    before = initializers(proto)
    if external:
        copied = onnx.ModelProto.FromString(proto.SerializeToString())
        onnx.save(copied, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
        twin = onnxprune.to_torch(tmp_path / "m.onnx")
        after = initializers(ir.to_proto(twin.write_back(tmp_path / "m.onnx")))
        raw = {n: onnx.TensorProto.FromString(b).raw_data for n, b in before.items()}
        saved = onnxprune.model_io.save(twin.write_back(tmp_path / "m.onnx"), tmp_path / "n.onnx")
        found = {t.name: t.raw_data for t in onnx.load(saved.model).graph.initializer}
        assert found == raw and after.keys() == before.keys()
    else:
        assert initializers(onnxprune.to_torch(proto).write_back(proto)) == before
    assert initializers(proto) == before


def test_after_training_only_the_values_of_parameters_differ() -> None:
    proto = net()
    twin = onnxprune.to_torch(proto, frozen=["fc_b"])
    optimizer = torch.optim.SGD([p for p in twin.parameters() if p.requires_grad], lr=0.1)
    twin(torch.from_numpy(IMAGES))["y"].square().sum().backward()
    optimizer.step()
    trained = twin.write_back(proto)
    changed = {n for n, raw in initializers(proto).items() if initializers(trained)[n] != raw}
    assert changed == {"conv_w", "bn_gamma", "bn_beta", "fc_w"}
    plain = ir.to_proto(ir.from_proto(proto))
    for field in ("node", "input", "output"):
        assert list(getattr(trained.graph, field)) == list(getattr(plain.graph, field))
    assert trained.opset_import == proto.opset_import


def test_what_was_trained_is_what_onnxruntime_runs() -> None:
    proto = net()
    twin = onnxprune.to_torch(proto)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    expected = run(open_session(ir.from_proto(twin.write_back(proto))), {"x": IMAGES})["y"]
    np.testing.assert_allclose(twin(x=torch.from_numpy(IMAGES))["y"].detach(), expected, atol=1e-5)


def test_a_model_with_other_shapes_is_refused() -> None:
    twin = onnxprune.to_torch(net())
    other = net()
    other.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.zeros((2, 3, 3, 3), np.float32), "conv_w"))
    with pytest.raises(BadInput, match="conv_w"):
        twin.write_back(ir.from_proto(other))


@pytest.mark.parametrize("kind", ["path", "bytes", "proto", "ir"])
def test_every_kind_of_model_comes_in_and_its_own_kind_comes_back(tmp_path: Path, kind: str) -> None:
    proto = net()
    path = tmp_path / "net.onnx"
    onnx.save(proto, path)
    sources: dict[str, Any] = {
        "path": path,
        "bytes": proto.SerializeToString(),
        "proto": proto,
        "ir": ir.from_proto(proto),
    }
    back = onnxprune.to_torch(sources[kind]).write_back(sources[kind])
    assert type(back) is {"path": ir.Model, "bytes": bytes, "proto": onnx.ModelProto, "ir": ir.Model}[kind]


def test_unchanged_constants_of_an_ir_model_stay_the_same_objects() -> None:
    model = ir.from_proto(net())
    back = onnxprune.to_torch(model).write_back(model)
    pairs = zip(model.graph.initializers.values(), back.graph.initializers.values(), strict=True)
    assert all(one.const_value is other.const_value for one, other in pairs)


def test_inputs_that_are_missing_or_unknown_are_named() -> None:
    twin = onnxprune.to_torch(net())
    with pytest.raises(BadInput, match=r"missing.*'x'"):
        twin()
    with pytest.raises(BadInput, match=r"unknown.*'z'"):
        twin(torch.from_numpy(IMAGES), z=torch.zeros(1))


def test_an_operator_without_a_function_says_so_once_and_is_right_without_a_gradient(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fallback._told.clear()
    body = """
        h = Mul (x, w)
        u, i, j, c = Unique <sorted = 1> (h)
        t = Mul (h, w)
        s = ReduceSum <keepdims = 0> (t)
        y = Add (u, s)
    """
    proto = model_from_text("(float[4] x) => (float[N] y)", body, {"w": np.ones(1, np.float32)})
    twin = onnxprune.to_torch(proto)
    x = np.array([2, 1, 2, 3], np.float32)
    with caplog.at_level(logging.WARNING):
        found, _ = (twin(torch.from_numpy(x))["y"] for _ in range(2))
    assert found.tolist() == run(open_session(ir.from_proto(proto)), {"x": x})["y"].tolist()
    assert [record.getMessage().split()[0] for record in caplog.records] == ["Unique"]
    found.sum().backward()
    # Each of three numbers holds the sum of x·w·w, whose derivative is 2·Σx; what went through Unique has none.
    assert twin.get_parameter("w").grad.tolist() == [3 * 2 * x.sum()]


def test_a_node_that_its_function_declines_is_computed_outside_of_torch(caplog: pytest.LogCaptureFixture) -> None:
    fallback._told.clear()
    body = "q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s)"
    weights: Weights = {"s": np.float32(0.5), "z": np.array(0, ml_dtypes.float8_e4m3fn)}
    proto = model_from_text("(float[3] x) => (float[3] y)", body, weights, opset=19, ir=9)
    x = np.array([0.3, -1.7, 9.0], np.float32)
    found = onnxprune.to_torch(proto)(torch.from_numpy(x))["y"]
    assert found.tolist() == run(open_session(ir.from_proto(proto)), {"x": x})["y"].tolist()
    assert "QuantizeLinear" in caplog.text


def test_text_passes_through_and_is_computed_outside_of_torch() -> None:
    body = "k = Constant <value_strings = ['b']> () y = StringConcat (s, k)"
    proto = model_from_text("(string[2] s) => (string[2] y)", body.replace("'", '"'), {}, opset=20, ir=9)
    found = onnxprune.to_torch(proto)(np.array(["a", "c"], object))
    assert list(found["y"]) == ["ab", "cb"]


def test_weights_inside_a_local_function_are_used_and_not_learned() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "own" : 1]> net (float[2] x) => (float[2] y) '
        "{ k = Constant <value = float[2] {5.0, 6.0}> () h = own.f (x) y = Mul (h, k) } "
        '<domain: "own", opset_import: ["" : 17]> '
        "f (a) => (b) "
        "{ k = Constant <value = float[2] {1.0, 2.0}> () b = Add (a, k) }"
    )
    twin = onnxprune.to_torch(proto)
    assert twin(torch.zeros(2))["y"].tolist() == [5.0, 12.0]
    assert [p.tolist() for p in twin.parameters()] == [[5.0, 6.0]]


def test_names_used_twice_in_sibling_bodies_are_two_parameters() -> None:
    body = """y = If (c) <
        then_branch = one () => (float[2] r) { k = Constant <value = float[2] {1.0, 2.0}> () r = Mul (x, k) },
        else_branch = two () => (float[2] r) { k = Constant <value = float[2] {3.0, 4.0}> () r = Mul (x, k) }
    >"""
    proto = model_from_text("(bool c, float[2] x) => (float[2] y)", body, {})
    twin = onnxprune.to_torch(proto)
    assert {n: p.tolist() for n, p in twin.named_parameters()} == {"k": [1.0, 2.0], "k_": [3.0, 4.0]}
    with torch.no_grad():
        twin.get_parameter("k_").mul_(2)
    back = ir.from_proto(twin.write_back(proto))
    for condition, expected in ((True, [1.0, 2.0]), (False, [6.0, 8.0])):
        feeds = {"c": np.array(condition), "x": np.ones(2, np.float32)}
        assert run(open_session(back), feeds)["y"].tolist() == expected
        assert twin(**{n: torch.from_numpy(a) for n, a in feeds.items()})["y"].tolist() == expected
