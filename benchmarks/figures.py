"""What the table says of a model, counted and measured independently of onnxprune."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import numpy_helper, shape_inference

from onnxprune.bench import Timing, bench


def macs(model: onnx.ModelProto) -> int:
    """Multiply–adds of one sample: every Conv and Gemm, from the inferred shapes."""
    inferred = shape_inference.infer_shapes(model, strict_mode=True)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.graph.value_info}
    weights = {i.name: list(i.dims) for i in model.graph.initializer}
    total = 0
    for node in model.graph.node:
        if node.op_type == "Conv":
            total += int(np.prod(weights[node.input[1]]) * np.prod(shapes[node.output[0]][2:]))
        elif node.op_type == "Gemm":
            total += int(np.prod(weights[node.input[1]]))
    return total


def parameters(model: onnx.ModelProto) -> int:
    """Elements of all floating-point initializers but BatchNorm's running statistics, which others fold away."""
    statistics = {name for n in model.graph.node if n.op_type == "BatchNormalization" for name in n.input[3:]}
    arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    return sum(a.size for name, a in arrays.items() if a.dtype.kind == "f" and name not in statistics)


def accuracy(model: onnx.ModelProto, images: np.ndarray, classes: np.ndarray) -> float:
    """Top-1 accuracy on onnxruntime."""
    quiet = ort.SessionOptions()
    quiet.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), quiet, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    found = [session.run(None, {name: batch})[0].argmax(1) for batch in np.array_split(images, len(images) // 100 or 1)]
    return float((np.concatenate(found) == classes).mean())


def latencies(models: list[onnx.ModelProto], batch: int, seconds: float) -> list[Timing]:
    """All models in turn, one thread; the first is what the others are compared with."""
    return bench([ir.from_proto(m) for m in models], batch=batch, threads=1, seconds=seconds)
