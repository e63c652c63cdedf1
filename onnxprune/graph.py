"""Small helpers on the in-memory graph: look up by name, read constants, add and replace them."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Array = npt.NDArray[Any]

SAMPLER = "onnxprune.sampler"
"""The key of a channel sampler's full width in its node's `meta`, which stays in memory and is not written."""
STATE = "onnxprune.state"
"""The key of a recurrent state's full size in the `meta` of a product that stands for a choice of units."""


def every_node(model: ir.Model) -> Iterator[ir.Node]:
    """The nodes of the main graph and of all bodies; those of a body come right after the node that holds it."""
    return iter(ir.traversal.RecursiveGraphIterator(model.graph))


def bodies(node: ir.Node) -> list[ir.Graph]:
    """The graphs that a control-flow node holds: branches, or the body of a loop."""
    return [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH and not a.is_ref()]


def callee(model: ir.Model, node: ir.Node) -> ir.Function | None:
    """The local function that a node calls."""
    return model.functions.get(node.op_identifier())


def why_not_inlined(model: ir.Model, function: ir.Function) -> str:
    """Why a local function cannot take the place of its calls; empty where it can."""
    for domain, version in function.opset_imports.items():
        if model.opset_imports.get(domain, version) != version:
            return f"is a local function of opset {version}, the model is of {model.opset_imports[domain]}"
    return ""


def constants(model: ir.Model) -> list[ir.Value]:
    """The initializers of the main graph and of all bodies."""
    return [v for graph in model.graphs() for v in graph.initializers.values() if v.const_value is not None]


def values_by_name(model: ir.Model) -> dict[str, ir.Value]:
    """Every value of the main graph and of all bodies; names are unique after the pre-pass."""
    return dict(ir.convenience.create_value_mapping(model.graph))


def nodes_by_name(model: ir.Model) -> dict[str, ir.Node]:
    """Every node of the main graph and of all bodies; names are unique after the pre-pass."""
    return {node.name or "": node for node in every_node(model)}


def array_of(value: ir.Value) -> Array:
    """The contents of a constant."""
    assert value.const_value is not None
    return value.const_value.numpy()


def replace_constant(value: ir.Value, array: Array) -> None:
    """Give a constant new contents, in its own dtype and under its own name."""
    assert value.const_value is not None
    dtype = value.const_value.dtype
    contents = np.ascontiguousarray(array, dtype.numpy()).reshape(np.shape(array))  # which makes vectors of scalars
    value.const_value = ir.tensor(contents, dtype=dtype, name=value.name)
    value.shape = ir.Shape(array.shape)


def replace_lazily(value: ir.Value, shape: tuple[int, ...], make: Callable[[], Array]) -> None:
    """Give a constant contents that are made each time they are read, and kept nowhere."""
    assert value.const_value is not None
    dtype, name = value.const_value.dtype, value.name

    def made() -> ir.TensorProtocol:
        return ir.tensor(np.ascontiguousarray(make(), dtype.numpy()), dtype=dtype, name=name)

    value.const_value = ir.LazyTensor(made, dtype, ir.Shape(shape), name=name)
    value.shape = ir.Shape(shape)


def names_in(graph: ir.Graph) -> set[str]:
    """Every name that a value of the graph has, or one of a body in it."""
    names = {value.name for node in graph.all_nodes() for value in node.outputs}
    names |= {value.name for each in (graph, *graph.subgraphs()) for value in each.inputs}
    return {name for name in names if name}.union(*(each.initializers for each in (graph, *graph.subgraphs())))


def add_constant(
    graph: ir.Graph, name: str, array: Array, dtype: ir.DataType | None = None, taken: set[str] | None = None
) -> ir.Value:
    """Register a new initializer under `name`, made unique among `taken` (default: all names of the graph)."""
    taken, unique = names_in(graph) if taken is None else taken, name
    while unique in taken:
        unique += "_"
    taken.add(unique)
    tensor = ir.tensor(np.ascontiguousarray(array).reshape(np.shape(array)), dtype=dtype, name=unique)
    value = ir.Value(name=unique, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    listed = len(graph.initializers) > 0 and all(v.is_graph_input() for v in graph.initializers.values())
    graph.register_initializer(value)
    if listed:  # before IR 4 every initializer must be an input
        graph.inputs.append(value)
    return value


def captured_values(node: ir.Node) -> Iterator[ir.Value]:
    """The values that the bodies of a control-flow node read, their own among them."""
    for body in bodies(node):
        for inner in ir.traversal.RecursiveGraphIterator(body):
            yield from (value for value in inner.inputs if value is not None)
        yield from (value for graph in (body, *body.subgraphs()) for value in graph.outputs)


def sole_reader(value: ir.Value) -> ir.Node | None:
    """The one node that reads a value; None where there are more or none, in a body, or where it is an output."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    return uses[0][0] if uses[0][0].graph is value.graph else None
