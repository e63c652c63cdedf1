"""The table of operators in torch, and what a function is told of its node."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

Function = Callable[..., Any]
"""Takes the `Call`, then the node's inputs (None where one is left out); returns one result, or a tuple of them."""
OPS: dict[tuple[str, str], Function] = {}
NUMBERS: dict[tuple[str, str], frozenset[int]] = {}
"""Inputs that a function reads as numbers (a shape, an axis): they stay on the CPU while others are on a device."""


def op(*op_types: str, domain: str = "", numbers: Sequence[int] = ()) -> Callable[[Function], Function]:
    """Register the decorated function as what these operators compute; `numbers` are inputs that it reads as such."""

    def register(function: Function) -> Function:
        OPS.update({(domain, op_type): function for op_type in op_types})
        NUMBERS.update({(domain, op_type): frozenset(numbers) for op_type in op_types})
        return function

    return register


@dataclass(frozen=True, eq=False)
class Call:
    """A node, but for its inputs: read once, when the twin is made.

    `given` tells which attributes the node has; `outputs` how many results are named; `opset` is that of its domain;
    `types` are those that the graph tells of the inputs, which torch may not have.
    """

    name: str
    op_type: str
    opset: int
    outputs: int
    given: Mapping[str, Any]
    types: Sequence[ir.DataType | None]

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute: a number, a string, a list of them or a tensor as numpy has it."""
        return self.given.get(name, default)


def call_of(node: ir.Node, opset: int) -> Call:
    """What the function of a node is told; bodies are left out."""
    named = [index + 1 for index, value in enumerate(node.outputs) if value.name]
    plain = {name: _plain(attribute) for name, attribute in node.attributes.items() if not _is_graph(attribute)}
    types = [None if value is None else value.dtype for value in node.inputs]
    return Call(node.name or "", node.op_type, opset, max(named, default=0), plain, types)


def _is_graph(attribute: ir.Attr) -> bool:
    return attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _plain(attribute: ir.Attr) -> Any:
    value = attribute.value
    if attribute.type == ir.AttributeType.TENSOR:
        return value.numpy()
    return list(value) if isinstance(value, tuple) else value
