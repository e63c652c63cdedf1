"""The table of operators in torch, and what a function is told of its node."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

Function = Callable[..., Any]
"""Takes the `Call`, then the node's inputs (None where one is left out); returns one result, or a tuple of them."""
OPS: dict[tuple[str, str], Function] = {}


def op(*op_types: str, domain: str = "") -> Callable[[Function], Function]:
    """Register the decorated function as what these operators compute."""

    def register(function: Function) -> Function:
        OPS.update({(domain, op_type): function for op_type in op_types})
        return function

    return register


@dataclass(frozen=True, eq=False)
class Call:
    """A node, but for its inputs: read once, when the twin is made.

    `given` tells which attributes the node has; `outputs` how many results are named; `opset` is that of its domain.
    """

    name: str
    op_type: str
    opset: int
    outputs: int
    given: Mapping[str, Any]

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute: a number, a string, a list of them or a tensor as numpy has it."""
        return self.given.get(name, default)


def call_of(node: ir.Node, opset: int) -> Call:
    """What the function of a node is told; bodies are left out."""
    named = [index + 1 for index, value in enumerate(node.outputs) if value.name]
    plain = {name: _plain(attribute) for name, attribute in node.attributes.items() if not _is_graph(attribute)}
    return Call(node.name or "", node.op_type, opset, max(named, default=0), plain)


def _is_graph(attribute: ir.Attr) -> bool:
    return attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _plain(attribute: ir.Attr) -> Any:
    value = attribute.value
    if attribute.type == ir.AttributeType.TENSOR:
        return value.numpy()
    return list(value) if isinstance(value, tuple) else value
