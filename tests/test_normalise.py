from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.model_io import load, save
from onnxprune.passes import fold
from onnxprune.passes.normalise import normalise
from onnxprune.serialise import to_bytes, to_proto

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4, 4)).astype(np.float32)


def model_of(graph: str, opset: int = 17, ir_version: int = 8, tail: str = "", **weights: np.ndarray) -> ir.Model:
    text = f'<ir_version: {ir_version}, opset_import: ["": {opset}, "local": 1, "com.acme": 1]>\n{graph}\n{tail}'
    proto = onnx.parser.parse_model(text)
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.checker.check_model(proto)
    return ir.from_proto(proto)


def outputs_of(model: ir.Model, **feeds: np.ndarray) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(to_bytes(model), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def checked(model: ir.Model, **feeds: np.ndarray) -> ir.Model:
    """Normalise and assert all that must hold for every model; return the result."""
    before = ir.to_proto(model).SerializeToString()
    result = normalise(model)
    assert ir.to_proto(model).SerializeToString() == before
    proto = to_proto(result)
    onnx.checker.check_model(proto)
    assert [output.name for output in proto.graph.output] == [value.name for value in model.graph.outputs]
    assert list(proto.graph.output) == list(ir.to_proto(model).graph.output)
    assert (result.ir_version, dict(result.opset_imports)) == (model.ir_version, dict(model.opset_imports))
    names = [node.name for node in result.graph.all_nodes()]
    assert all(names)
    assert len(set(names)) == len(names)
    expected = outputs_of(model, **feeds)
    for name, value in outputs_of(result, **feeds).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-6, atol=1e-6)
    return result


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_constants_of_every_kind_and_size_become_initializers() -> None:
    result = checked(
        model_of("""net (float[2] x) => (float[2] y, int64[2] s) {
            w = Constant <value = float[2] {3, 4}> ()   one = Constant <value_float = 1.5> ()
            two = Constant <value_floats = [1.0, 2.0]> ()   axis = Constant <value_ints = [0]> ()
            i = Constant <value_int = 1> ()   flag = Constant <value = bool[2] {1, 0}> ()
            a = Mul (x, w)   b = Add (a, one)   c = Add (b, two)   d = Where (flag, c, a)
            y = Identity (d)   ss = Shape (x)   s1 = Unsqueeze (i, axis)   s = Concat <axis = 0> (ss, s1) }"""),
        x=np.array([1, 2], np.float32),
    )
    assert "Constant" not in ops(result)
    assert {"w", "one", "two", "flag"} <= set(result.graph.initializers)
    assert result.graph.initializers["flag"].dtype == ir.DataType.BOOL


def test_weights_behind_cast_transpose_and_identity_become_initializers() -> None:
    half = RNG.standard_normal((5, 4)).astype(np.float16)
    result = checked(
        model_of(
            """net (float[N, 4] x) => (float[N, 5] y) {
                a = Cast <to = 1> (half)   b = Identity (a)   c = Transpose <perm = [1, 0]> (b)
                y = MatMul (x, c) }""",
            half=half,
        ),
        x=X.reshape(-1, 4),
    )
    assert ops(result) == ["MatMul"]
    np.testing.assert_array_equal(result.graph.initializers["c"].const_value.numpy(), half.astype(np.float32).T)


def test_large_weights_are_folded_too() -> None:
    weight = RNG.standard_normal((1200, 1000)).astype(np.float32)
    graph = "net (float[N, 1000] x) => (float[N, 1200] y) { t = Transpose <perm = [1, 0]> (w)   y = MatMul (x, t) }"
    result = checked(model_of(graph, w=weight), x=RNG.standard_normal((1, 1000)).astype(np.float32))
    assert list(result.graph.initializers) == ["t"]


def test_parameters_fed_through_identities_become_weights_of_their_own() -> None:
    """torch's exporter merges equal BatchNorm parameters, which are different once channels go."""
    parameters = np.array([1, 2, 3], np.float32)
    result = checked(
        model_of(
            """net (float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] y) {
                scale = Identity (p)   mean = Identity (p)   h = BatchNormalization (x, scale, p, mean, p)
                y = BatchNormalization (h, p, p, p, p) }""",
            p=parameters,
        ),
        x=X,
    )
    assert ops(result) == ["BatchNormalization", "BatchNormalization"]
    assert set(result.graph.initializers) == {"p", "scale", "mean", "p_"}
    assert [value.name for value in result.graph.node(0).inputs] == ["x", "scale", "p", "mean", "p"]


def test_shared_initializers_stay_shared() -> None:
    weight = RNG.standard_normal((3, 3, 1, 1)).astype(np.float32)
    graph = "net (float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] y) { h = Conv (x, w)   y = Conv (h, w) }"
    result = checked(model_of(graph, w=weight), x=X)
    assert len(result.graph.initializers["w"].uses()) == 2


def test_captured_weights_are_folded_and_branches_survive() -> None:
    model = model_of(
        """net (float[2, 2] x, bool c) => (float[2, 2] y) {
            t = Transpose <perm = [1, 0]> (w)   i = Identity (x)
            y = If (c) <
                then_branch = yes () => (p) {
                    u = Transpose <perm = [1, 0]> (v)   m = MatMul (i, t)   p = MatMul (m, u) },
                else_branch = no () => (q) {
                    k = Constant <value = float[1] {2}> ()   z = Identity (i)   q = Mul (z, k) }
            > }""",
        w=RNG.standard_normal((2, 2)).astype(np.float32),
        v=RNG.standard_normal((2, 2)).astype(np.float32),
    )
    for c in (True, False):
        result = checked(model, x=X[0, 0, :2, :2], c=np.array(c))
    assert ops(result)[-1] == "If"
    assert "Transpose" not in [node.op_type for node in result.graph.all_nodes()]


def test_quantised_weights_are_left_alone() -> None:
    graph = """net (float[N, 4] x) => (float[N, 4] y) <float scale = {0.5}, int8 zero = {0}> {
        d = DequantizeLinear (q, scale, zero)   y = MatMul (x, d) }"""
    result = checked(model_of(graph, q=np.arange(16, dtype=np.int8).reshape(4, 4)), x=X.reshape(-1, 4))
    assert ops(result) == ["DequantizeLinear", "MatMul"]
    assert "q" in result.graph.initializers


@pytest.mark.parametrize(
    "expansion",
    [
        "big = ConstantOfShape (s)",
        "v = Constant <value = float[1] {2}> ()   big = Expand (v, s)",
        "v = Constant <value = float[1, 1] {2}> ()   big = Tile (v, s)",
        "v = ConstantOfShape (n)   r = Reshape (v, column)   big = Mul (v, r)",
    ],
)
def test_what_would_blow_the_model_up_is_not_folded(expansion: str) -> None:
    graph = f"""net (float[1] x) => (float[1] y)
        <int64[2] s = {{1100, 1000}}, int64[1] n = {{1050}}, int64[2] column = {{-1, 1}}, int64[2] axes = {{0, 1}}> {{
        {expansion}   m = ReduceMax <keepdims = 0> (big)   y = Add (x, m) }}"""
    result = checked(model_of(graph), x=X[0, 0, 0, :1])
    assert sum(value.const_value.nbytes for value in result.graph.initializers.values()) < 100_000


def test_a_constant_that_asks_for_terabytes_is_left_alone() -> None:
    graph = """net (float[N] x) => (float[N] y, float[A, B] z) <int64[2] s = {1000000, 1000000}> {
        y = Neg (x)   z = ConstantOfShape (s) }"""
    assert ops(normalise(model_of(graph))) == ["Neg", "ConstantOfShape"]


def test_a_small_expansion_is_folded() -> None:
    graph = "net (float[2] x) => (float[2] y) <int64[1] s = {2}> { z = ConstantOfShape (s)   y = Add (x, z) }"
    assert ops(checked(model_of(graph), x=X[0, 0, 0, :2])) == ["Add"]


def test_a_false_declared_shape_is_not_baked_in() -> None:
    """A real OCR model declares rank 2 where rank 3 comes out."""
    graph = """net (float[N, 4] x) => (float[A, B] y) <float[7, 9] h> {
        h = Neg (x)   s = Shape (h)   f = Cast <to = 1> (s)   g = ReduceMax <keepdims = 0> (f)   y = Add (h, g) }"""
    result = checked(model_of(graph), x=X.reshape(-1, 4))
    assert "Shape" in ops(result)


def test_symbols_that_are_merely_spelt_alike_are_not_taken_as_equal() -> None:
    """Some exporters call every free dimension None."""
    graph = """net (float[none, none] x, float[none, none] z) => (float[A, B] y) {
        s = Shape (z)   y = Reshape (x, s) }"""
    model = model_of(graph)
    feeds = {"x": X[0, 0, :2], "z": X[0, 0, :, :2]}
    result = normalise(model)
    np.testing.assert_array_equal(outputs_of(result, **feeds)["y"], feeds["x"].reshape(4, 2))


def test_a_shape_that_is_fixed_at_the_inputs_is_computed_beforehand() -> None:
    graph = """net (float[2, 3, 4, 4] x) => (float[2, 48] y)
        <int64 zero = {0}, int64[1] rest = {-1}, int64[1] at = {0}> {
        h = Relu (x)   s = Shape (h)   n = Gather (s, zero)   u = Unsqueeze (n, at)   t = Concat <axis = 0> (u, rest)
        y = Reshape (h, t) }"""
    result = checked(model_of(graph), x=X)
    assert ops(result) == ["Relu", "Reshape"]
    assert result.graph.node(1).inputs[1].const_value.numpy().tolist() == [2, -1]


@pytest.mark.parametrize(
    "graph", ["{ y = Identity (x) }", "{ y = Identity (w) }", "{ h = Neg (x)   y = Identity (h) }"]
)
def test_an_identity_before_an_output_leaves_the_names_alone(graph: str) -> None:
    weight = np.ones(2, np.float32)
    model = model_of(f"net (float[2] x) => (float[2] y) {graph}", w=weight)
    result = checked(model, x=X[0, 0, 0, :2])
    assert [value.name for value in result.graph.inputs] == ["x"]


def test_dead_nodes_and_weights_go_and_unused_inputs_stay() -> None:
    graph = "net (float[2] x, float[2] unused) => (float[2] y) { y = Neg (x)   dead = Add (x, w) }"
    result = checked(model_of(graph, w=np.ones(2, np.float32)), x=X[0, 0, 0, :2], unused=X[0, 0, 0, :2])
    assert ops(result) == ["Neg"]
    assert [value.name for value in result.graph.inputs] == ["x", "unused"]
    assert not result.graph.initializers


def test_unnamed_and_doubly_named_nodes_get_stable_names() -> None:
    model = model_of("net (float[2] x) => (float[2] y) { a = Neg (x)   b = Neg (a)   c = Neg (b)   y = Neg (c) }")
    for index, name in enumerate(("same", "", "same", "Neg:b")):
        model.graph.node(index).name = name
    result = normalise(model)  # onnxruntime would not take a name twice
    assert outputs_of(result, x=X[0, 0, 0, :2])["y"].tolist() == X[0, 0, 0, :2].tolist()
    assert [node.name for node in result.graph] == ["same", "Neg:b_1", "Neg:c", "Neg:b"]
    assert [node.name for node in normalise(result).graph] == [node.name for node in result.graph]


def test_weights_listed_as_inputs_count_as_weights_and_stay_listed() -> None:
    """IR 3 demands that every initializer is an input as well."""
    weight = RNG.standard_normal((4, 4)).astype(np.float32)
    graph = """net (float[4, 4] w, float[2, 4] x, float[4] b) => (float[2, 4] y) {
        t = Transpose <perm = [1, 0]> (w)   h = MatMul (x, t)   y = Add (h, b) }"""
    model = model_of(graph, opset=8, ir_version=3, w=weight, b=np.ones(4, np.float32))
    result = checked(model, x=X[0, 0, :2])
    assert ops(result) == ["MatMul", "Add"]
    assert [value.name for value in result.graph.inputs] == ["x", "b", "t"]
    assert set(result.graph.initializers) == {"b", "t"}


def test_functions_and_custom_operators_survive() -> None:
    tail = """<domain: "local", opset_import: ["": 17]>
        shifted (v) => (r) { k = Constant <value = float[1] {2}> ()   i = Identity (k)   r = Add (v, i) }"""
    model = model_of("net (float[2] x) => (float[2] y) { h = local.shifted (x)   y = Neg (h) }", tail=tail)
    result = checked(model, x=X[0, 0, 0, :2])
    assert ir.to_proto(result).functions == ir.to_proto(model).functions
    custom = normalise(
        model_of("net (float[2] x) => (float[2] y) { h = com.acme.Mystery (x, w)   y = Neg (h) }", w=X[0, 0])
    )
    assert ops(custom) == ["Mystery", "Neg"]
    assert list(custom.graph.initializers) == ["w"]


def test_sequences_and_loops_pass_through() -> None:
    graph = """net (float[2] x, int64 n) => (float[A, 2] y) <bool go = {1}> {
        empty = SequenceEmpty ()
        s = Loop (n, go, empty) <body = step (int64 i, bool cond, seq(float[2]) s0) => (bool cond1, seq(float[2]) s1) {
            cond1 = Identity (cond)   w2 = Neg (w)   v = Add (x, w2)   s1 = SequenceInsert (s0, v) }>
        y = ConcatFromSequence <axis = 0, new_axis = 1> (s) }"""
    model = model_of(graph, w=np.ones(2, np.float32))
    assert ops(checked(model, x=X[0, 0, 0, :2], n=np.array(3))) == ["SequenceEmpty", "Loop", "ConcatFromSequence"]


@pytest.mark.parametrize("opset", [7, 9, 11, 12, 13, 15, 18, 21, 23])
def test_every_supported_opset_is_normalised(opset: int) -> None:
    weight = RNG.standard_normal((5, 48)).astype(np.float32)
    shape = "shape = Constant <value = int64[2] {-1, 48}> ()"
    graph = f"""net (float[N, 3, 4, 4] x) => (float[N, 5] y) {{
        {shape}   s = Constant <value = float[1] {{2}}> ()   i = Identity (s)   m = Mul (x, i)   d = Dropout (m)
        b = BatchNormalization (d, p, p, p, p)   r = Reshape (b, shape)
        t = Transpose <perm = [1, 0]> (w)   y = MatMul (r, t) }}"""
    model = model_of(graph, opset=opset, w=weight, p=np.array([1, 2, 3], np.float32))
    result = checked(model, x=X)
    assert [op for op in ops(result) if op != "Dropout"] == ["Mul", "BatchNormalization", "Reshape", "MatMul"]


def test_a_folder_that_fails_leaves_the_constants_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("no such evaluator")

    monkeypatch.setattr(fold, "fold_constants", fail)
    graph = "net (float[N, 2] x) => (float[N, 2] y) { t = Transpose <perm = [1, 0]> (w)   y = MatMul (x, t) }"
    result = checked(model_of(graph, w=np.arange(4, dtype=np.float32).reshape(2, 2)), x=X[0, 0, :, :2])
    assert ops(result) == ["Transpose", "MatMul"]


def test_external_weights_are_normalised_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.model_io.PROTOBUF_LIMIT", 0)
    weight = RNG.standard_normal((20, 20)).astype(np.float32)
    graph = "net (float[N, 20] x) => (float[N, 20] y) { i = Identity (x)   h = MatMul (i, w)   y = Neg (h) }"
    path = save(model_of(graph, w=weight), tmp_path / "m.onnx").model
    result = checked(load(path).model, x=X.reshape(-1)[:80].reshape(4, 20))
    assert isinstance(result.graph.initializers["w"].const_value, ir.ExternalTensor)


STEPS = st.lists(
    st.sampled_from(["Identity", "Cast", "Transpose", "Neg", "Constant", "Shared"]), min_size=1, max_size=8
)


@settings(max_examples=25)
@given(steps=STEPS)
def test_chains_of_constants_always_become_weights(steps: list[str]) -> None:
    lines, current = [], "w"
    for index, step in enumerate(steps):
        new = f"c{index}"
        lines.append(
            {
                "Identity": f"{new} = Identity ({current})",
                "Cast": f"{new} = Cast <to = 1> ({current})",
                "Transpose": f"{new} = Transpose <perm = [1, 0]> ({current})",
                "Neg": f"{new} = Neg ({current})",
                "Constant": f"k{index} = Constant <value_float = 2.0> ()   {new} = Mul ({current}, k{index})",
                "Shared": f"{new} = Add ({current}, w)",
            }[step]
        )
        current = new
    graph = f"net (float[N, 3] x) => (float[N, 3] y) {{ {' '.join(lines)} y = MatMul (x, {current}) }}"
    weight = np.arange(9, dtype=np.float32).reshape(3, 3)
    result = checked(model_of(graph, w=weight), x=X.reshape(-1, 3))
    assert ops(result) == ["MatMul"]
    assert len(result.graph.initializers) == 1
