"""Constant folding that trusts no declared shape and cannot blow the model up."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import onnx_ir as ir
from onnxscript.optimizer import FOLDED_FROM_KEY, fold_constants

GROWTH_LIMIT = 4_000_000
"""Bytes that folding one node may add to the model."""

_TINY = 1_000  # bytes of inputs up to which a node is folded although its output's size is not known
_NO_LIMIT = 1 << 62
_NEVER_FOLDED = frozenset({"DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear"})

_log = logging.getLogger(__name__)


def fold(model: ir.Model) -> ir.Model:
    """Return the model with nodes on constants evaluated, or as it is where the folder cannot cope with it.

    Not folded: quantised weights, and whatever would add more than `GROWTH_LIMIT` bytes. The graph's functions must
    have been set aside: the folder would apply the graph's opset to them.
    """
    trial = model.clone()
    opset = trial.opset_imports.get("", 1)
    shapes = _hide_shapes(trial.graph)
    try:
        with _without_warnings():
            fold_constants(
                trial,
                onnx_shape_inference=True,
                input_size_limit=_NO_LIMIT,
                output_size_limit=_NO_LIMIT,
                should_fold=lambda node: _may_fold(node, opset),
            )
    except Exception as error:  # one node that the folder cannot evaluate stops it, with any exception
        _log.info("constants stay unfolded: %s", error)
        return model
    for value, shape in shapes:
        value.shape = shape
    for graph in trial.graphs():
        for value in (*graph.initializers.values(), *(value for node in graph for value in node.outputs)):
            # The folder's notes would end up in the user's file.
            value.metadata_props.pop(FOLDED_FROM_KEY, None)
    return trial


@contextmanager
def _without_warnings() -> Iterator[None]:
    """The folder warns of each node that it leaves alone, which is none of the user's business."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _hide_shapes(graph: ir.Graph) -> list[tuple[ir.Value, ir.Shape | None]]:
    """Clear what is only declared, and return it: declared shapes can be false, and folding Shape would bake them in.

    Fixed dimensions of the graph's inputs stay, since the runtime enforces them.
    """
    declared = [value for node in graph.all_nodes() for value in node.outputs]
    declared += [value for inner in graph.subgraphs() for value in inner.inputs]
    shapes = [(value, value.shape) for value in (*declared, *graph.inputs)]
    for value in declared:
        value.shape = None
    for value in graph.inputs:
        if value.shape is not None:
            value.shape = ir.Shape([dim if isinstance(dim, int) and dim > 0 else None for dim in value.shape])
    return shapes


def _may_fold(node: ir.Node, opset: int) -> bool:
    if len(node.outputs) != 1 or node.op_type in _NEVER_FOLDED:
        return False
    inputs = [value for value in node.inputs if value is not None and value.const_value is not None]
    size = _output_bytes(node, inputs, opset)
    if size is None:
        return sum(value.const_value.nbytes for value in inputs if value.const_value is not None) <= _TINY
    freed = sum(value.const_value.nbytes for value in inputs if value.const_value and len(value.uses()) == 1)
    return size <= freed + GROWTH_LIMIT


def _output_bytes(node: ir.Node, inputs: list[ir.Value], opset: int) -> int | None:
    """Infer what folding would produce before it is produced: a few bytes of shape can ask for terabytes."""
    tensors = {value.name or "": value.const_value for value in inputs if value.const_value is not None}
    try:
        inferred = onnx.shape_inference.infer_node_outputs(
            onnx.defs.get_schema(node.op_type, opset, node.domain),
            ir.to_proto(node),
            {name: onnx.helper.make_tensor_type_proto(t.dtype, t.shape.numpy()) for name, t in tensors.items()},
            {name: ir.to_proto(t) for name, t in tensors.items() if t.nbytes <= _TINY},
        )
    except Exception:  # no schema, or a node that cannot be inferred
        return None
    tensor_type = next(iter(inferred.values())).tensor_type if inferred else onnx.TypeProto.Tensor()
    if not tensor_type.HasField("shape") or any(not dim.HasField("dim_value") for dim in tensor_type.shape.dim):
        return None
    elements = math.prod(int(dim.dim_value) for dim in tensor_type.shape.dim)
    return int(elements * ir.DataType(tensor_type.elem_type).bitwidth) // 8
