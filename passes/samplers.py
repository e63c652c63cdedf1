"""Channel samplers: a layer reads some channels of a shared input, the others stay for those who need them.

He, Zhang & Sun 2017, §3.3: the first convolution of a residual branch shares its input with the shortcut, so its
input channels are sampled for it alone, by a Gather. That costs a copy, hence an option; where the input cannot lose a
channel at all (a normalised stream before a wide layer) it is the only way, and the copy is small beside the layer.
"""

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from onnxprune.graph import SAMPLER, add_constant, array_of


def sharing(model: ir.Model, layers: Collection[str]) -> dict[str, tuple[int, int]]:
    """The named convolutions whose input has other readers too, as `add_samplers` takes them."""
    found = {}
    for node in model.graph:
        source, weight = (
            (node.inputs[0], node.inputs[1]) if node.name in layers and node.op_type == "Conv" else 2 * (None,)
        )
        if source is not None and weight is not None and len(source.uses()) > 1:
            found[node.name or ""] = (1, array_of(weight).shape[1])
    return found


def add_samplers(model: ir.Model, layers: Mapping[str, tuple[int, int]]) -> ir.Model:
    """Put a Gather of all channels before each of the named layers: (the axis they lie on, how many they are)."""
    model = model.clone()
    for node in list(model.graph):
        if (found := layers.get(node.name or "")) is not None:
            _insert(model.graph, node, *found)
    return model


def _insert(graph: ir.Graph, layer: ir.Node, axis: int, width: int) -> None:
    source = layer.inputs[0]
    assert source is not None
    indices = add_constant(graph, f"{layer.name}.channels", np.arange(width, dtype=np.int64))
    gather = ir.node("Gather", [source, indices], {"axis": axis}, name=f"{layer.name}.sampler")
    gather.meta[SAMPLER] = width
    sampled = gather.outputs[0]
    sampled.name, sampled.type, sampled.shape = f"{layer.name}.sampled", source.type, source.shape
    graph.insert_before(layer, gather)
    layer.replace_input_with(0, sampled)


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
