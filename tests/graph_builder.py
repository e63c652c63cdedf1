"""A little builder of image graphs for the random-graph strategy: every layer it appends fits the value before it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from graph_text import draw as draw_weight


@dataclass(frozen=True)
class Value:
    """A tensor (N, channels, size, size) by name."""

    name: str
    channels: int
    size: int


@dataclass
class GraphBuilder:
    """Nodes and initializers in order; `values` are the tensors that later steps may read, newest last."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    made: int = 0

    def constant(self, array: np.ndarray | np.generic) -> str:
        name = f"k{len(self.initializers)}"
        self.initializers.append(onnx.numpy_helper.from_array(np.asarray(array), name))
        return name

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def weight(self, kind: str, *shape: int) -> str:
        """Random numbers whose scale follows the kind: w, b, gamma, beta, mean, var or slope."""
        return self.constant(draw_weight(kind, shape, self.rng))

    def node(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output and return the output's name."""
        return self.nodes_out(op_type, 1, *inputs, **attributes)[0]

    def nodes_out(self, op_type: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """Append a node with `count` outputs and return their names."""
        outputs = [f"v{self.made}_{index}" for index in range(count)]
        self.made += 1
        self.nodes.append(onnx.helper.make_node(op_type, list(inputs), outputs, **attributes))
        return outputs

    def body(self, build: Callable[[], str]) -> onnx.GraphProto:
        """The nodes that `build` appends, as a graph of their own that gives what it returns; constants stay outside."""
        before, self.nodes = self.nodes, []
        output = onnx.helper.make_tensor_value_info(build(), onnx.TensorProto.FLOAT, None)
        own, self.nodes = self.nodes, before
        return onnx.helper.make_graph(own, f"body{self.made}", [], [output])

    def conv(self, x: Value, channels: int, bias: bool = True, group: int = 1, **window: int) -> Value:
        """Convolution with a square window: kernel, stride, dilation, pad (each 1, 1, 1, 0 where not given)."""
        kernel, stride, dilation = (window.get(key, 1) for key in ("kernel", "stride", "dilation"))
        pad = window.get("pad", 0)
        inputs = [x.name, self.weight("w", channels, x.channels // group, kernel, kernel)]
        inputs += [self.weight("b", channels)] if bias else []
        attributes = {"strides": [stride] * 2, "dilations": [dilation] * 2, "pads": [pad] * 4, "group": group}
        size = window_size(x.size, kernel, stride, dilation, pad)
        return Value(self.node("Conv", *inputs, **attributes), channels, size)

    def with_channels(self, x: Value, channels: int) -> Value:
        """`x` itself where it has that width, else a 1x1 convolution of it."""
        return x if x.channels == channels else self.conv(x, channels)

    def model(self, output: str) -> onnx.ModelProto:
        """The model of what `output` needs, over the one input `x` (N, 3, 8, 8)."""
        needed: set[str] = {output}
        nodes: list[onnx.NodeProto] = []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                nodes.insert(0, node)
                needed.update(read_by(node))
        weights = [tensor for tensor in self.initializers if tensor.name in needed]
        x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, 8, 8])
        y = onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)
        graph = onnx.helper.make_graph(nodes, "random", [x], [y], weights)
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
        return onnx.shape_inference.infer_shapes(model)


def read_by(node: onnx.NodeProto) -> set[str]:
    """What a node and the nodes in its bodies read."""
    bodies = [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]
    return set(node.input).union(*(read_by(inner) for body in bodies for inner in body.node))


def window_size(size: int, kernel: int, stride: int, dilation: int, pad: int) -> int:
    """Output size of a sliding window."""
    return (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
