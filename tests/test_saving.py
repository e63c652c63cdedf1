"""Models are written whole or not at all, and large ones beside their data."""

import errno
import multiprocessing
import os
import random
import time
import tracemalloc
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from model_case import PLAIN, proto_of, run, with_external_data, write

from onnxprune import model_io
from onnxprune.errors import BadInput
from onnxprune.model_io import Loaded, like, load, save


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
    model = load(onnx.load(with_external_data(tmp_path))).model
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
