"""Operators without a function in torch: ONNX's reference evaluator computes them, or onnxruntime; no gradient."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx.reference import ReferenceEvaluator

from onnxprune.runtime import open_session, run
from onnxprune.torch_twin.registry import Call
from onnxprune.torch_twin.tensors import to_array, to_tensor

_log = logging.getLogger(__name__)
_told: set[str] = set()


def fallback(node: ir.Node, model: ir.Model) -> Callable[..., Any]:
    """A function that computes the node outside of torch; it says so once for each operator."""
    made: list[onnx.NodeProto] = []

    def compute(call: Call, *inputs: Any) -> tuple[Any, ...]:
        if call.op_type not in _told:
            _told.add(call.op_type)
            _log.warning("%s (%s) is not computed in torch, and without a gradient", call.op_type, call.name)
        if not made:
            made.append(_proto(node))
        given = [None if value is None else to_array(value) for value in inputs]
        device = next((value.device for value in inputs if isinstance(value, torch.Tensor)), None)
        results = [to_tensor(np.asarray(found)) for found in _computed(made[0], model, given)]
        return tuple(found.to(device) if isinstance(found, torch.Tensor) else found for found in results)

    return compute


def _proto(node: ir.Node) -> onnx.NodeProto:
    """The node, with a name for each result that is read."""
    proto = ir.to_proto(node)
    del proto.output[:]
    proto.output.extend(value.name or "" for value in node.outputs)
    return proto


def _computed(node: onnx.NodeProto, model: ir.Model, given: list[Any]) -> list[Any]:
    """What one node makes of its inputs."""
    feeds = {f"in{i}": array for i, array in enumerate(given) if array is not None}
    own = onnx.NodeProto()
    own.CopyFrom(node)
    del own.input[:], own.output[:]
    own.input.extend(f"in{i}" if array is not None else "" for i, array in enumerate(given))
    names = [f"out{i}" if name else "" for i, name in enumerate(node.output)]
    own.output.extend(names)
    graph = onnx.helper.make_graph(
        [own],
        "node",
        [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in feeds.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in names if name],
    )
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    made = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=max(model.ir_version, 4))
    try:
        return list(ReferenceEvaluator(made).run(None, feeds))
    except Exception:  # it knows no operators of the runtime's own, and raises many types
        found = run(open_session(ir.from_proto(made)), feeds)
        return [found[name] for name in names if name]
