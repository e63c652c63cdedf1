"""The pre-pass: constants become initializers, nodes get names, dead and constant nodes go; the function stays."""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import common

from onnxprune.graph import names_in
from onnxprune.passes.fold import GROWTH_LIMIT, fold
from onnxprune.passes.unshare import unshare_vectors
from onnxprune.passes.zero_states import drop_zero_states
from onnxprune.serialise import renamed


@dataclass(frozen=True)
class _Signature:
    """What the pre-pass may not change: the inputs in their order, and each output's type and shape."""

    inputs: tuple[str, ...]
    outputs: tuple[tuple[ir.TypeProtocol | None, ir.Shape | None], ...]


def normalise(model: ir.Model) -> ir.Model:
    """Return an equivalent model whose weights are initializers and whose nodes and values have unique names.

    Constant nodes of any size are lifted; chains of Identity, Cast, Transpose and the like on constants are folded
    (not what would add more than `GROWTH_LIMIT` bytes, and no quantised weights); dead nodes and Identities go, and
    initial states that are zeros, as they are by default. Each reader of a shared vector gets its own.
    Names of inputs, outputs, nodes and surviving initializers stay. An initializer that is also listed as an input
    counts as a weight; it stays listed. Local functions are not touched. The steps are those that were right on 57
    of 57 real models, except that nothing is inlined.
    """
    model = model.clone()
    functions = dict(model.functions)
    # The passes would apply the graph's opset to function bodies, which may import another.
    model.functions.clear()
    signature = _detach_weights(model.graph)
    name_nodes(model.graph)
    _part_names(model.graph)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _copy_initializers_behind_identities(model.graph)
    _own_tensor_names(model)
    common.RemoveUnusedNodesPass()(model)
    model = fold(model)
    _remove_identities(model.graph)
    drop_zero_states(model.graph)
    common.RemoveUnusedNodesPass()(model)
    common.TopologicalSortPass()(model)
    name_nodes(model.graph)
    _part_names(model.graph)
    _own_tensor_names(model)
    _attach_weights(model, signature)
    unshare_vectors(model.graph)
    model.functions.update(functions)
    return model


def _detach_weights(graph: ir.Graph) -> _Signature:
    """Take the initializers off the list of inputs, where they would count as values that change."""
    signature = _Signature(
        tuple(value.name or "" for value in graph.inputs),
        tuple((value.type, value.shape.copy() if value.shape is not None else None) for value in graph.outputs),
    )
    variable = [value for value in graph.inputs if not value.is_initializer()]
    graph.inputs.clear()
    graph.inputs.extend(variable)
    return signature


def _attach_weights(model: ir.Model, signature: _Signature) -> None:
    graph = model.graph
    known = {value.name: value for value in (*graph.inputs, *graph.initializers.values())}
    listed = [known[name] for name in signature.inputs if name in known]
    if model.ir_version < 4:
        # Before IR 4 every initializer had to be an input.
        listed.extend(value for value in graph.initializers.values() if value not in listed)
    graph.inputs.clear()
    graph.inputs.extend(listed)
    for value, (type_, shape) in zip(graph.outputs, signature.outputs, strict=True):
        value.type, value.shape = type_, shape


def name_nodes(graph: ir.Graph) -> None:
    """Name unnamed nodes after their first output, which is unique and does not depend on the node's position."""
    used = {node.name for node in graph.all_nodes() if node.name}
    seen: set[str | None] = set()
    for node in (node for scope in (graph, *graph.subgraphs()) for node in scope):
        if node.name and node.name not in seen:
            seen.add(node.name)
            continue
        stem = f"{node.op_type}:{next((value.name for value in node.outputs if value.name), '')}"
        node.name = next(name for name in _numbered(stem) if name not in used)
        used.add(node.name)
        seen.add(node.name)


def _part_names(graph: ir.Graph) -> None:
    """Sibling bodies may use one name for two values, and then one of them gets another; the main graph's stay."""
    used, seen = names_in(graph), set[str]()
    for scope in (graph, *graph.subgraphs()):
        own = [*scope.inputs, *scope.initializers.values(), *(value for node in scope for value in node.outputs)]
        for value in dict.fromkeys(own):
            if value.name in seen:
                value.name = next(name for name in _numbered(value.name) if name not in used)
                used.add(value.name)
            if value.name:
                seen.add(value.name)


def _numbered(stem: str) -> Iterator[str]:
    yield stem
    number = 1
    while True:
        yield f"{stem}_{number}"
        number += 1


def _copy_initializers_behind_identities(graph: ir.Graph) -> None:
    """Give each Identity of a weight a weight of its own: exporters merge equal weights that must part when pruned."""
    for node in graph:
        source = node.inputs[0] if _is_identity(node) else None
        if source is None or source.const_value is None or not source.is_initializer():
            continue
        output = node.outputs[0]
        if output.is_graph_output() or source.const_value.nbytes > GROWTH_LIMIT:
            continue
        copy = ir.Value(name=output.name, type=source.type, shape=source.shape, const_value=source.const_value)
        output.replace_all_uses_with(copy)
        graph.remove(node, safe=True)
        graph.register_initializer(copy)


def _remove_identities(graph: ir.Graph) -> None:
    # A subgraph may name the values on either side; removing Identities there broke 5 of 57 real models.
    if any(True for _ in graph.subgraphs()):
        return
    for node in graph:
        source = node.inputs[0] if _is_identity(node) else None
        if source is not None and not node.outputs[0].is_graph_output():
            node.outputs[0].replace_all_uses_with(source)
            graph.remove(node, safe=True)


def _is_identity(node: ir.Node) -> bool:
    return node.op_type == "Identity" and node.domain in ("", "ai.onnx")


def _own_tensor_names(model: ir.Model) -> None:
    """Wrap tensors named otherwise than their value: serialising would rename the object the caller still holds."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor) and tensor.name != value.name:
                value.const_value = renamed(tensor, value.name or "")
            elif tensor is not None and tensor.name != value.name and tensor.dtype != ir.DataType.STRING:
                value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=value.name)
