import errno
import multiprocessing
import os
import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import onnx_ir as ir
import onnxruntime as ort
import pytest

from onnxprune import model_io
from onnxprune.errors import BadInput
from onnxprune.model_io import Loaded, like, load, save

TEXT = """
<ir_version: 8, opset_import: ["": 17, "local": 1, "com.acme": 3], producer_name: "maker",
 metadata_props: ["classes": "cat,dog"]>
net (float[N, 4] x) => (float[N, 4] y, float[N, 4] z)
<float[4, 4] w = {1,0,0,0, 0,2,0,0, 0,0,3,0, 0,0,0,4}, float[4] unused = {1,2,3,4}>
{
    h = MatMul (x, w)
    y = local.twice (h)
    z = com.acme.Mystery <level = 3> (h)
}
<domain: "local", opset_import: ["": 17]>
twice (a) => (b) { b = Add (a, a) }
"""

PLAIN = """
<ir_version: 8, opset_import: ["": 17]>
net (float[N, 4] x) => (float[N, 4] y) <float[4] w = {1,2,3,4}> { y = Mul (x, w) }
"""


def proto_of(text: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model)
    return model


def with_external_data(folder: Path, elements: int = 1024, location: str = "weights.bin") -> Path:
    """Write a model by hand, in protobuf terms only: y = x + w, with w in a file of its own."""
    graph = onnx.parser.parse_graph(f"net (float[{elements}] x) => (float[{elements}] y) {{ y = Add (x, w) }}")
    tensor = graph.initializer.add(name="w", data_type=1, dims=[elements], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "64"), ("length", str(elements * 4))):
        tensor.external_data.add(key=key, value=value)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "weights.bin").write_bytes(bytes(64) + np.arange(elements, dtype=np.float32).tobytes())
    return folder / "model.onnx"


def run(model: bytes | str, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, feeds)


SOURCES: dict[str, Callable[[onnx.ModelProto, Path], object]] = {
    "path": lambda proto, folder: write(proto, folder / "model.onnx"),
    "bytes": lambda proto, folder: proto.SerializeToString(),
    "proto": lambda proto, folder: proto,
    "ir": lambda proto, folder: ir.from_proto(proto),
    "graphsurgeon": lambda proto, folder: gs.import_onnx(proto),
}
TYPES = {"path": ir.Model, "bytes": bytes, "proto": onnx.ModelProto, "ir": ir.Model, "graphsurgeon": gs.Graph}


def write(proto: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize("kind", SOURCES)
def test_what_comes_in_goes_out_as_the_same_kind(kind: str, tmp_path: Path) -> None:
    loaded = load(SOURCES[kind](proto_of(PLAIN), tmp_path))
    assert loaded.kind == kind
    assert loaded.path == (tmp_path / "model.onnx" if kind == "path" else None)
    assert isinstance(like(loaded.model, loaded), TYPES[kind])
    assert [value.name for value in load(like(loaded.model, loaded)).model.graph.initializers.values()] == ["w"]


def test_a_round_trip_keeps_everything_that_is_not_arithmetic(tmp_path: Path) -> None:
    before = proto_of(TEXT)
    before.doc_string, before.graph.doc_string, before.graph.node[0].doc_string = "model", "graph", "node"
    before.graph.node[0].name = "first"
    for node in (*before.graph.node, *before.functions[0].node):
        if not node.domain:
            node.ClearField("domain")  # the parser writes the default domain out
    save(load(write(before, tmp_path / "in.onnx")).model, tmp_path / "out.onnx")
    after = onnx.load(tmp_path / "out.onnx")
    for field in ("ir_version", "opset_import", "metadata_props", "doc_string", "producer_name", "functions"):
        assert getattr(after, field) == getattr(before, field), field
    for field in ("name", "doc_string", "input", "output", "initializer", "node"):
        assert getattr(after.graph, field) == getattr(before.graph, field), field


def test_a_string_path_works_like_a_path(tmp_path: Path) -> None:
    assert load(str(write(proto_of(PLAIN), tmp_path / "m.onnx"))).path == tmp_path / "m.onnx"


def test_changing_the_loaded_model_leaves_the_source_alone() -> None:
    for source in (ir.from_proto(proto_of(PLAIN)), proto_of(PLAIN)):
        model = load(source).model
        model.graph.initializers["w"].const_value = ir.tensor(np.zeros(4, np.float32), name="w")
        model.graph.node(0).op_type = "Add"
        untouched = source if isinstance(source, onnx.ModelProto) else ir.to_proto(source)
        assert untouched.graph.node[0].op_type == "Mul"
        assert onnx.numpy_helper.to_array(untouched.graph.initializer[0]).tolist() == [1, 2, 3, 4]


def test_sparse_weights_become_dense_ones_of_the_same_value() -> None:
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        net (float[2, 3] x) => (float[2, 3] y) { s = Add (x, w)  y = Add (s, c) }""")
    values, linear = onnx.helper.make_tensor("w", 1, [2], [5.0, 7.0]), onnx.helper.make_tensor("i", 7, [2], [0, 4])
    proto.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, linear, [2, 3]))
    pairs = onnx.helper.make_tensor("j", 7, [2, 2], [0, 2, 1, 0])
    constant = onnx.helper.make_sparse_tensor(onnx.helper.make_tensor("", 1, [2], [1.0, 2.0]), pairs, [2, 3])
    proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["c"], sparse_value=constant))
    (result,) = run(model_io.to_bytes(load(proto).model), {"x": np.zeros((2, 3), np.float32)})
    assert result.tolist() == [[5, 0, 1], [2, 7, 0]]
    assert len(proto.graph.sparse_initializer) == 1


def test_graphsurgeon_is_imported_only_for_its_own_graphs() -> None:
    code = "import sys, onnxprune.model_io; print('onnx_graphsurgeon' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


# --- bad input ---------------------------------------------------------------------------------------------------


def refused(source: object) -> str:
    with pytest.raises(BadInput) as caught:
        load(source)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    assert "there is no such file" in refused(tmp_path / "nothing.onnx")
    assert "not a file" in refused(tmp_path)


def test_what_is_no_model_at_all_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("this is not a protobuf, it only claims to be one\n" * 20)
    (tmp_path / "empty.onnx").write_bytes(b"")
    assert "not an ONNX model" in refused(tmp_path / "text.onnx")
    assert "empty" in refused(tmp_path / "empty.onnx")
    assert "cannot read a model from int" in refused(3)


def test_every_truncation_of_a_model_is_refused() -> None:
    whole = proto_of(PLAIN).SerializeToString()
    for length in range(len(whole)):
        assert refused(whole[:length])


def test_a_file_larger_than_any_protobuf_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "huge.onnx").open("wb") as file:
        file.truncate(1 << 31)
    assert "more than a protobuf can hold" in refused(tmp_path / "huge.onnx")


@pytest.mark.parametrize("kind", ["path", "bytes", "proto", "ir"])
def test_what_the_checker_refuses_is_refused(kind: str, tmp_path: Path) -> None:
    proto = proto_of(PLAIN)
    proto.graph.node[0].op_type = "NoSuchOperator"
    assert "NoSuchOperator" in refused(SOURCES[kind](proto, tmp_path))


def test_a_graph_whose_nodes_are_out_of_order_is_refused() -> None:
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        net (float[4] x) => (float[4] y) { h = Neg (x)  y = Relu (h) }""")
    proto.graph.node.extend([proto.graph.node[0], proto.graph.node[1]][::-1])
    del proto.graph.node[:2]
    assert "checker" in refused(proto)
    assert refused(ir.from_proto(proto))


def test_an_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(proto_of(PLAIN), tmp_path / "m.onnx")

    def forbidden(self: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    assert "Permission denied" in refused(path)


def test_external_data_that_is_missing_is_refused(tmp_path: Path) -> None:
    path = with_external_data(tmp_path)
    (tmp_path / "weights.bin").unlink()
    assert "'w'" in refused(path)
    assert "is missing" in refused(path)


def test_external_data_that_is_too_short_is_refused(tmp_path: Path) -> None:
    path = with_external_data(tmp_path)
    os.truncate(tmp_path / "weights.bin", 4096)
    assert "too short" in refused(path)


def test_external_data_of_another_length_than_the_shape_is_refused(tmp_path: Path) -> None:
    path = with_external_data(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    proto.graph.initializer[0].external_data[2].value = "400"
    write(proto, path)
    assert "400 bytes where shape [1024] needs 4096" in refused(path)


@pytest.mark.parametrize("location", ["../weights.bin", "sub/../../weights.bin", ""])
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "inner" / "sub").mkdir(parents=True)
    path = with_external_data(tmp_path / "inner", location=location)
    (tmp_path / "inner" / "weights.bin").rename(tmp_path / "weights.bin")
    assert "outside the model's folder" in refused(path)


def test_external_data_at_an_absolute_path_is_refused(tmp_path: Path) -> None:
    path = with_external_data(tmp_path, location=str(tmp_path / "weights.bin"))
    assert "outside the model's folder" in refused(path)


def test_external_data_behind_links_that_lead_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    path = with_external_data(tmp_path / "inner")
    data = tmp_path / "inner" / "weights.bin"
    data.rename(tmp_path / "secret")
    data.symlink_to(tmp_path / "secret")
    assert "outside the model's folder" in refused(path)
    data.unlink()
    data.hardlink_to(tmp_path / "secret")
    assert "hard links" in refused(path)


def test_external_data_without_a_folder_is_refused(tmp_path: Path) -> None:
    path = with_external_data(tmp_path)
    assert "give the model's path" in refused(path.read_bytes())
    assert "give the model's path" in refused(onnx.load(path, load_external_data=False))
    model = ir.load(path)
    (tmp_path / "weights.bin").unlink()
    assert "is missing" in refused(model)


# --- saving ------------------------------------------------------------------------------------------------------


def test_external_data_stays_on_disk_until_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = with_external_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    tensor = load(path.name).model.graph.initializers["w"].const_value
    monkeypatch.chdir("/")
    assert isinstance(tensor, ir.ExternalTensor)
    assert tensor.raw is None
    assert tensor.numpy()[:3].tolist() == [0, 1, 2]


def test_external_data_gets_a_file_named_by_its_content(tmp_path: Path) -> None:
    model = load(with_external_data(tmp_path)).model
    (tmp_path / "out").mkdir()
    saved = save(model, tmp_path / "out" / "slim.onnx")
    assert saved.data is not None
    assert saved.data.name.startswith("slim-")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == sorted(["slim.onnx", saved.data.name])
    assert saved.bytes == saved.model.stat().st_size + saved.data.stat().st_size
    assert save(model, tmp_path / "out" / "slim.onnx") == saved
    (result,) = run(str(saved.model), {"x": np.ones(1024, np.float32)})
    np.testing.assert_array_equal(result, np.arange(1024) + 1)


def test_a_model_is_saved_over_its_own_source(tmp_path: Path) -> None:
    path = with_external_data(tmp_path)
    model = load(path).model
    for _ in range(2):
        saved = save(model, path)
        (result,) = run(str(path), {"x": np.zeros(1024, np.float32)})
        np.testing.assert_array_equal(result, np.arange(1024))
        model = load(saved.model).model


def test_a_model_beyond_the_protobuf_limit_is_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(with_external_data(tmp_path)).model
    model.graph.initializers["w"].const_value = ir.tensor(np.full(1024, 3, np.float32), name="w")
    assert save(model, tmp_path / "whole.onnx").data is None
    monkeypatch.setattr(model_io, "PROTOBUF_LIMIT", 4095)
    saved = save(model, tmp_path / "split.onnx")
    assert saved.data is not None
    assert saved.data.stat().st_size == 4096
    assert run(str(saved.model), {"x": np.zeros(1024, np.float32)})[0].tolist() == [3] * 1024


def test_weights_of_every_place_survive_a_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_io, "PROTOBUF_LIMIT", 0)
    big = np.arange(600, dtype=np.float32)
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        net (float[600] x, bool c) => (float[600] y) {
            k = Constant <value = float[1] {1}> ()
            p = Add (x, k)
            y = If (c) <then_branch = yes () => (t) { t = Add (p, inner) }, else_branch = no () => (e) { e = Neg (p) }>
        }""")
    branch = next(attribute for attribute in proto.graph.node[2].attribute if attribute.name == "then_branch")
    branch.g.initializer.append(onnx.numpy_helper.from_array(big, "inner"))
    proto.graph.node[0].attribute[0].t.CopyFrom(onnx.numpy_helper.from_array(big * 2, "k"))
    saved = save(load(proto).model, tmp_path / "m.onnx")
    assert saved.data is not None
    (result,) = run(str(saved.model), {"x": np.ones(600, np.float32), "c": np.array(True)})
    np.testing.assert_array_equal(result, 1 + big * 3)


def test_saving_a_large_model_takes_little_memory(tmp_path: Path) -> None:
    path = with_external_data(tmp_path)
    elements = 16 << 20
    with (tmp_path / "weights.bin").open("wb") as file:
        file.truncate(64 + elements * 4)
    proto = onnx.load(path, load_external_data=False)
    proto.graph.initializer[0].dims[0] = elements
    proto.graph.initializer[0].external_data[2].value = str(elements * 4)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = elements
    write(proto, path)
    tracemalloc.start()
    try:
        saved = save(load(path).model, tmp_path / "out.onnx")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert saved.bytes > elements * 4
    assert peak < 16 << 20


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_disk_that_fills_up_leaves_the_old_model_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    path = with_external_data(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    model = load(path).model
    calls, fsync = [], os.fsync

    def fill_up(descriptor: int) -> None:
        calls.append(descriptor)
        # The folder is synchronised after the data file's rename: 1 is the data, 3 the model.
        if len(calls) == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fill_up)
    if failing == 2:
        assert save(model, path).model == path
        return
    with pytest.raises(BadInput, match=r"cannot write .*: the disk is full"):
        save(model, path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def _save_forever(path: Path, versions: list[bytes], limit: int, ready: Connection) -> None:
    model_io.PROTOBUF_LIMIT = limit
    models = [load(version).model for version in versions]
    while True:
        for model in models:
            save(model, path)
            ready.send(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a fork server")
@pytest.mark.parametrize("limit", [model_io.PROTOBUF_LIMIT, 0], ids=["one file", "external data"])
def test_a_kill_at_any_moment_leaves_one_of_the_two_versions(tmp_path: Path, limit: int) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["onnxprune.model_io"])
    path, moment, seen = tmp_path / "m.onnx", random.Random(0), set()
    versions = [_version(number) for number in (1, 2)]
    for _ in range(12):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_save_forever, args=(path, versions, limit, sender), daemon=True)
        process.start()
        sender.close()
        receiver.recv()
        time.sleep(moment.uniform(0, 0.03))
        process.kill()
        process.join()
        seen.add(_whole_version(path))
    assert seen <= {1, 2}


def _version(number: int) -> bytes:
    graph = onnx.parser.parse_graph("net (float[N, 40000] x) => (float[N, 40000] y) { y = Mul (x, w) }")
    graph.initializer.append(onnx.numpy_helper.from_array(np.full(40000, number, np.float32), "w"))
    graph.doc_string = str(number)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _whole_version(path: Path) -> int:
    model = onnx.load(path)
    values = set(onnx.numpy_helper.to_array(model.graph.initializer[0]).tolist())
    assert values == {float(model.graph.doc_string)}
    return int(model.graph.doc_string)


def test_a_model_too_large_for_bytes_says_to_use_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(proto_of(PLAIN).SerializeToString())

    def too_large(model: ir.Model) -> onnx.ModelProto:
        raise ValueError("Message onnx.ModelProto exceeds maximum protobuf size of 2GB")

    monkeypatch.setattr(ir, "to_proto", too_large)
    with pytest.raises(BadInput, match="write to a path instead"):
        like(loaded.model, Loaded(loaded.model, "bytes", None))
