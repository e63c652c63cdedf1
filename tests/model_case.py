"""Models as text and files for the tests of what comes in and goes out."""

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort

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


def write(proto: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path
