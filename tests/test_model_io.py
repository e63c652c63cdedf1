"""What comes in goes out as the same kind, with all it had; what is no model is refused."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import onnx_ir as ir
import pytest
from model_case import PLAIN, TEXT, proto_of, run, with_external_data, write

from onnxprune import model_io
from onnxprune.errors import BadInput
from onnxprune.model_io import like, load, save

SOURCES: dict[str, Callable[[onnx.ModelProto, Path], object]] = {
    "path": lambda proto, folder: write(proto, folder / "model.onnx"),
    "bytes": lambda proto, folder: proto.SerializeToString(),
    "proto": lambda proto, folder: proto,
    "ir": lambda proto, folder: ir.from_proto(proto),
    "graphsurgeon": lambda proto, folder: gs.import_onnx(proto),
}
TYPES = {"path": ir.Model, "bytes": bytes, "proto": onnx.ModelProto, "ir": ir.Model, "graphsurgeon": gs.Graph}


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
