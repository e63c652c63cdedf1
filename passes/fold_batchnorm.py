"""Fold BatchNormalization into the convolution before it."""

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from onnxprune.graph import Array, add_constant, array_of, every_node, replace_constant, sole_reader
from onnxprune.passes.drop import drop_node


def fold_batchnorm(model: ir.Model, convolutions: Collection[str]) -> ir.Model:
    """Scale the weights of the named convolutions by the BatchNormalization that alone reads them, and drop that.

    Its vectors go too, unless something else reads them. A weight or a parameter that is computed, or that another node
    shares, is left as it is. The result computes the same in inference mode.
    """
    model = model.clone()
    for node in list(every_node(model)):
        norm = sole_reader(node.outputs[0]) if node.name in convolutions else None
        if norm is not None and _foldable(node, norm):
            _fold(model.graph, node, norm)
    return model


def with_zero_norm(model: ir.Model) -> list[str]:
    """The convolutions whose BatchNormalization multiplies a channel by zero, and can be folded."""
    found = []
    for node in every_node(model):
        norm = sole_reader(node.outputs[0])
        if norm is not None and _foldable(node, norm):
            gamma = norm.inputs[1]
            assert gamma is not None
            found += [node.name or ""] * (not np.all(array_of(gamma)))
    return found


def _foldable(conv: ir.Node, norm: ir.Node) -> bool:
    if conv.op_type not in ("Conv", "ConvTranspose") or norm.op_type != "BatchNormalization":
        return False
    training = norm.attributes.get("training_mode")
    if (training is not None and training.as_int()) or any(v.name and v.uses() for v in norm.outputs[1:]):
        return False
    own = [v for v in conv.inputs[1:] if v is not None]
    if any(v.const_value is None or len(v.uses()) != 1 or v.is_graph_output() for v in own):
        return False
    return all(v is not None and v.const_value is not None for v in norm.inputs[1:5])


def _fold(graph: ir.Graph, conv: ir.Node, norm: ir.Node) -> None:
    weight = conv.inputs[1]
    assert weight is not None
    gamma, beta, mean, variance = (array_of(v).astype(np.float64) for v in norm.inputs[1:5] if v is not None)
    epsilon = norm.attributes.get("epsilon")
    scale = gamma / np.sqrt(variance + (1e-5 if epsilon is None else epsilon.as_float()))
    bias_value = conv.inputs[2] if len(conv.inputs) > 2 else None
    bias = 0.0 if bias_value is None else array_of(bias_value).astype(np.float64)
    replace_constant(weight, _scaled(conv, array_of(weight).astype(np.float64), scale))
    shifted = (bias - mean) * scale + beta
    if bias_value is not None:
        replace_constant(bias_value, shifted)
    else:
        give_bias(graph, conv, shifted)
    drop_node(norm, conv.outputs[0])


def _scaled(conv: ir.Node, weight: Array, scale: Array) -> Array:
    if conv.op_type == "Conv":
        return weight * scale.reshape(-1, *(1 for _ in weight.shape[1:]))
    group = conv.attributes.get("group")
    blocks = weight.reshape(1 if group is None else group.as_int(), -1, *weight.shape[1:])
    by_output = scale.reshape(blocks.shape[0], 1, blocks.shape[2], *(1 for _ in weight.shape[2:]))
    return (blocks * by_output).reshape(weight.shape)


def give_bias(graph: ir.Graph, conv: ir.Node, bias: Array) -> ir.Value:
    """Add a bias input to a convolution that has none."""
    weight = conv.inputs[1]
    assert weight is not None
    value = add_constant(graph, f"{weight.name}.bias", bias.astype(array_of(weight).dtype), weight.dtype)
    conv.resize_inputs(3)
    conv.replace_input_with(2, value)
    return value
