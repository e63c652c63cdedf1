"""Constants, parameters and multiply–adds of a model, counted from the file alone."""

import numpy as np
import onnx


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The initializers by name."""
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def params(model: onnx.ModelProto) -> int:
    """Elements of all initializers."""
    return sum(array.size for array in constants(model).values())


def macs(model: onnx.ModelProto) -> int:
    """Multiply–adds a sample by shape inference: weight elements times positions, of Conv, Gemm and MatMul nodes."""
    model = onnx.load_from_string(model.SerializeToString())
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_value = 1
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*inferred.value_info, *inferred.output)
    }
    weights = constants(model)
    positions = {"Conv": slice(2, None), "Gemm": slice(0, 0), "MatMul": slice(1, -1)}
    return sum(
        weights[node.input[1]].size * int(np.prod(shapes[node.output[0]][positions[node.op_type]]))
        for node in model.graph.node
        if node.op_type in positions
    )
