import gc
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest

from onnxprune import runtime
from onnxprune.errors import BadInput
from onnxprune.runtime import open_session, run, subgraph

CHAIN = """
<ir_version: 8, opset_import: ["": 17, "local": 1]>
net (float[N, 2] x) => (float[N, 2] y)
<float[2] a = {1,2}, float[2] b = {3,4}, float[2] c = {5,6}, float[N, 2] h1, float[N, 2] h2>
{
    h1 = Add (x, a)
    h2 = local.scale (h1, b)
    h3 = Add (h2, h1)
    y = Mul (h3, c)
}
<domain: "local", opset_import: ["": 17]>
scale (v, s) => (r) { r = Mul (v, s) }
"""

NESTED = """
<ir_version: 8, opset_import: ["": 17]>
net (float[2] x, bool c, bool d) => (float[2] y)
<float[2] a = {1,2}, float[2] b = {3,4}, float[2] k, float[2] g>
{
    h = Add (x, a)
    k = Mul (x, b)
    g = Neg (h)
    y = If (c) <
        then_branch = yes () => (t) {
            t = If (d) <then_branch = yy () => (tt) { tt = Add (k, b) }, else_branch = yn () => (te) { te = Abs (k) }>
        },
        else_branch = no () => (e) { e = Sub (g, b) }
    >
}
"""

X = np.array([[1, -2]], np.float32)


def model_of(text: str) -> ir.Model:
    proto = onnx.parser.parse_model(text)
    onnx.checker.check_model(proto)
    return ir.from_proto(proto)


def test_a_session_computes_the_outputs_by_name() -> None:
    assert run(open_session(model_of(CHAIN)), {"x": X})["y"].tolist() == [[40, 0]]


def test_other_outputs_are_computed_instead_and_the_model_stays_as_it_was() -> None:
    model = model_of(CHAIN)
    before = ir.to_proto(model).SerializeToString()
    outputs = run(open_session(model, outputs=["h3", "h1"], threads=1), {"x": X})
    assert {name: value.tolist() for name, value in outputs.items()} == {"h3": [[8, 0]], "h1": [[2, 0]]}
    assert ir.to_proto(model).SerializeToString() == before


def test_inputs_and_weights_can_be_outputs() -> None:
    outputs = run(open_session(model_of(CHAIN), outputs=["x", "a", "y"]), {"x": X})
    assert outputs["x"].tolist() == X.tolist()
    assert outputs["a"].tolist() == [1, 2]
    assert outputs["y"].tolist() == [[40, 0]]


@pytest.mark.parametrize("optimise", [True, False])
def test_a_large_model_goes_through_a_folder_that_is_gone_afterwards(
    optimise: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_MEMORY_LIMIT", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    session = open_session(model_of(CHAIN), optimise=optimise)
    assert list(tmp_path.iterdir()) == []
    assert run(session, {"x": X})["y"].tolist() == [[40, 0]]


def test_the_options_reach_the_session() -> None:
    options = open_session(model_of(CHAIN), threads=2, optimise=False).get_session_options()
    assert options.intra_op_num_threads == 2
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL


def test_a_provider_that_is_not_there_is_named() -> None:
    with pytest.raises(BadInput, match=r"provider NoSuchProvider is not in .*CPUExecutionProvider"):
        open_session(model_of(CHAIN), providers=["NoSuchProvider"])


def test_a_provider_that_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime-gpu without a driver logs an error and goes on with the CPU."""
    fallen_back = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    fake = SimpleNamespace(
        __version__="1",
        SessionOptions=ort.SessionOptions,
        get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
        InferenceSession=lambda *args, **options: fallen_back,
    )
    monkeypatch.setattr(runtime, "import_onnxruntime", lambda: fake)
    with pytest.raises(BadInput, match="CUDAExecutionProvider did not start"):
        open_session(model_of(CHAIN), providers=["CUDAExecutionProvider", "CPUExecutionProvider"])


def test_a_missing_onnxruntime_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BadInput, match=r"install onnxprune\[cpu\] or onnxprune\[gpu\]"):
        open_session(model_of(CHAIN))


def test_an_operator_that_the_runtime_lacks_is_explained() -> None:
    model = model_of("""<ir_version: 8, opset_import: ["": 17, "com.acme": 1]>
        net (float[2] x) => (float[2] y) { y = com.acme.Mystery (x) }""")
    with pytest.raises(BadInput, match=r"Mystery.*a custom operator"):
        open_session(model)


def test_an_opset_that_the_runtime_lacks_is_explained() -> None:
    model = model_of(CHAIN)
    model.graph.opset_imports[""] = 99
    with pytest.raises(BadInput, match=r"(?i)opset 99.*convert the model"):
        open_session(model)


def test_feeds_of_the_wrong_rank_are_refused() -> None:
    with pytest.raises(BadInput, match="cannot run the model"):
        run(open_session(model_of(CHAIN)), {"x": np.zeros((1, 2, 3), np.float32)})


# --- cutting -----------------------------------------------------------------------------------------------------


def test_a_scalar_is_run_as_one() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    net (float x) => (float[1] y) <int64[1] axis = {0}> { y = Unsqueeze (x, axis) }"""
    assert run(open_session(model_of(text)), {"x": np.array(2, np.float32)})["y"].shape == (1,)


def test_a_cut_holds_only_what_it_needs() -> None:
    model = model_of(CHAIN)
    before = ir.to_proto(model).SerializeToString()
    cut = subgraph(model, ["h1"], ["h3"])
    assert [node.op_type for node in cut.graph] == ["scale", "Add"]
    assert list(cut.graph.initializers) == ["b"]
    assert cut.graph.initializers["b"].const_value is model.graph.initializers["b"].const_value
    assert (cut.ir_version, cut.opset_imports, list(cut.functions)) == (8, {"": 17, "local": 1}, list(model.functions))
    assert run(open_session(cut), {"h1": X})["h3"].tolist() == [[4, -10]]
    assert ir.to_proto(model).SerializeToString() == before


@pytest.mark.parametrize("c", [True, False])
@pytest.mark.parametrize("d", [True, False])
def test_a_cut_keeps_what_nested_branches_capture(c: bool, d: bool) -> None:
    model = model_of(NESTED)
    feeds = {"x": np.array([1, -2], np.float32), "c": np.array(c), "d": np.array(d)}
    inner = run(open_session(model, outputs=["k", "g"]), feeds)
    cut = subgraph(model, ["k", "g", "c", "d"], ["y"])
    assert [node.op_type for node in cut.graph] == ["If"]
    assert run(open_session(cut), {**inner, "c": feeds["c"], "d": feeds["d"]})["y"].tolist() == (
        run(open_session(model), feeds)["y"].tolist()
    )
    assert [node.op_type for node in subgraph(model, ["x", "c", "d"], ["y"]).graph] == ["Add", "Mul", "Neg", "If"]


def test_a_cut_that_lacks_a_captured_value_is_refused() -> None:
    with pytest.raises(BadInput, match="cannot cut"):
        subgraph(model_of(NESTED), ["k", "c", "d"], ["y"])


def test_a_cut_that_lacks_an_input_or_names_nothing_is_refused() -> None:
    with pytest.raises(BadInput, match=r"cannot cut \['y'\] out from \['h2'\].*x"):
        subgraph(model_of(CHAIN), ["h2"], ["y"])
    with pytest.raises(BadInput, match="nowhere"):
        subgraph(model_of(CHAIN), ["nowhere"], ["y"])


def test_a_cut_at_a_value_of_unknown_type_is_refused() -> None:
    model = model_of(NESTED)
    next(value for node in model.graph for value in node.outputs if value.name == "k").type = None
    with pytest.raises(BadInput, match="'k': its dtype is not known"):
        subgraph(model, ["k", "g", "c", "d"], ["y"])


def test_shapes_that_a_model_only_claims_do_not_stop_a_cut() -> None:
    model = model_of("""<ir_version: 8, opset_import: ["": 17]>
        net (float[N, 2] x) => (float[N, 2] y) <float[1, 2] h, float[1, 2] k> {
            h = Neg (x)  k = Relu (h)  y = Add (k, h) }""")
    cut = subgraph(model, ["h"], ["k", "y"])
    outputs = run(open_session(cut), {"h": np.array([[1, 2], [-3, 4]], np.float32)})
    assert outputs["k"].tolist() == [[1, 2], [0, 4]]
    assert outputs["y"].tolist() == [[2, 4], [-3, 8]]


def test_weights_listed_as_inputs_stay_weights_in_a_cut() -> None:
    model = model_of("""<ir_version: 3, opset_import: ["": 8]>
        net (float[2] x, float[2] a) => (float[2] y) <float[2] a = {1,2}> { h = Add (x, a)  y = Neg (h) }""")
    assert run(open_session(model, outputs=["h"]), {"x": X[0]})["h"].tolist() == [2, 0]
    assert run(open_session(subgraph(model, ["x"], ["h"])), {"x": X[0]})["h"].tolist() == [2, 0]


def test_a_weight_may_be_an_input_of_a_cut_and_stays_a_weight_of_the_model() -> None:
    model = model_of("""<ir_version: 8, opset_import: ["": 17]>
        net (float[2] x) => (float[2] y) <float[2] a = {1,2}> { h = Add (x, a)  y = Neg (h) }""")
    before = ir.to_proto(model).SerializeToString()
    session = open_session(model, inputs=["a", "x"], outputs=["y"])
    assert run(session, {"x": X[0], "a": np.full(2, 5, np.float32)})["y"].tolist() == (-X[0] - 5).tolist()
    assert ir.to_proto(model).SerializeToString() == before


FOLDED = """
    net (float[N,2] x) => (float[N,2] y, float[300000] c, float[300000] w)
    { one = Constant <value = float {1.0}> () c = Add (w, one) y = Relu (x) }
"""


def weighted(text: str, weight: np.ndarray | None = None) -> ir.Model:
    """A graph given as text, with the initializer `w`."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    if weight is not None:
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return ir.from_proto(model)


def test_outputs_outlive_the_session_even_where_they_are_constants() -> None:
    outputs = run(open_session(weighted(FOLDED, np.arange(300_000, dtype=np.float32))), {"x": X})
    gc.collect()
    churn = [np.full(300_000, -1.0, np.float32) for _ in range(20)]
    np.testing.assert_array_equal(outputs["w"], np.arange(300_000))
    np.testing.assert_array_equal(outputs["c"], np.arange(300_000) + 1)
    assert not outputs["c"].flags.writeable and len(churn) == 20


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_large_weights_are_read_where_they_lie_and_the_model_keeps_them(dtype: type) -> None:
    kind = {np.float16: "float16", np.float32: "float", np.float64: "double"}[dtype]
    weight = np.random.default_rng(0).standard_normal((40, 30)).astype(dtype)
    model = weighted(f"net ({kind}[N,40] x) => ({kind}[N,30] y) {{ y = MatMul (x, w) }}", weight)
    x = np.random.default_rng(1).standard_normal((3, 40)).astype(dtype)
    before = ir.to_proto(model).SerializeToString()
    session = open_session(model)
    gc.collect()
    np.testing.assert_allclose(run(session, {"x": x})["y"], x @ weight, rtol=2e-2 if dtype == np.float16 else 1e-5)
    assert ir.to_proto(model).SerializeToString() == before
    assert len(session.weights_in_use) == 1


def test_a_large_weight_that_nothing_reads_does_no_harm() -> None:
    model = model_of(CHAIN)
    idle = ir.tensor(np.ones((64, 64), np.float32), name="idle")
    model.graph.register_initializer(ir.Value(name="idle", const_value=idle))
    assert run(open_session(model), {"x": X})["y"].tolist() == [[40, 0]]


def test_a_weight_that_is_an_input_as_well_can_be_given() -> None:
    weight = np.ones((400, 2), np.float32)
    model = weighted("net (float[N,400] x, float[400,2] w) => (float[N,2] y) { y = MatMul (x, w) }", weight)
    session, x = open_session(model), np.ones((1, 400), np.float32)
    assert run(session, {"x": x})["y"].tolist() == [[400, 400]]
    assert run(session, {"x": x, "w": 2 * weight})["y"].tolist() == [[800, 800]]


def test_outputs_without_an_element_are_arrays_too() -> None:
    model = weighted("net (float[N,2] x) => (float[N,2] y) { y = Relu (x) }")
    assert run(open_session(model), {"x": np.zeros((0, 2), np.float32)})["y"].shape == (0, 2)


def test_an_input_that_is_handed_through_is_a_copy() -> None:
    x = np.ones((2, 2), np.float32)
    found = run(open_session(model_of(CHAIN), outputs=["x"]), {"x": x})["x"]
    x[:] = 7
    assert found.tolist() == [[1, 1], [1, 1]]


def test_what_needs_no_input_is_computed_without_any() -> None:
    model = weighted("net (float[N,2] x) => (float[N,2] y) { k = Neg (w) r = Relu (k) y = Add (x, r) }", -X[0])
    session = open_session(model, inputs=[], outputs=["r"])
    assert session.get_inputs() == []
    assert run(session, {})["r"].tolist() == [1, 0]
