"""Channel samplers: a layer reads some channels of a shared input, the others stay for those who need them.

He, Zhang & Sun 2017, §3.3: the first convolution of a residual branch shares its input with the shortcut, so its
input channels are sampled for it alone, by a Gather. That costs a copy, hence an option.
"""

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from onnxprune.graph import SAMPLER, add_constant, array_of


def add_samplers(model: ir.Model, layers: Collection[str]) -> ir.Model:
    """Put a Gather of all channels before each of the named convolutions whose input has other readers too."""
    model = model.clone()
    for node in list(model.graph):
        source = node.inputs[0] if node.name in layers and node.op_type == "Conv" else None
        if source is not None and len(source.uses()) > 1:
            _insert(model.graph, node, source)
    return model


def _insert(graph: ir.Graph, conv: ir.Node, source: ir.Value) -> None:
    weight = conv.inputs[1]
    assert weight is not None
    channels = np.arange(array_of(weight).shape[1], dtype=np.int64)
    indices = add_constant(graph, f"{conv.name}.channels", channels)
    gather = ir.node("Gather", [source, indices], {"axis": 1}, name=f"{conv.name}.sampler")
    gather.meta[SAMPLER] = len(channels)
    sampled = gather.outputs[0]
    sampled.name, sampled.type, sampled.shape = f"{conv.name}.sampled", source.type, source.shape
    graph.insert_before(conv, gather)
    conv.replace_input_with(0, sampled)


def drop_idle_samplers(model: ir.Model) -> ir.Model:
    """The model without the samplers that still take every channel."""
    model = model.clone()
    for node in list(model.graph):
        source, indices = (node.inputs[0], node.inputs[1]) if SAMPLER in node.meta else (None, None)
        if source is None or indices is None:
            continue
        if node.meta[SAMPLER] == len(array_of(indices)):
            node.outputs[0].replace_all_uses_with(source)
            model.graph.remove(node, safe=True)
            del model.graph.initializers[indices.name or ""]
    return model
