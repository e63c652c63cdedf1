"""A graph as a list of steps: one function call each, on values by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch

from onnxprune.graph import bodies, captured_values
from onnxprune.torch_twin.constants import is_constant
from onnxprune.torch_twin.fallback import fallback
from onnxprune.torch_twin.registry import NUMBERS, OPS, Call, Function, call_of
from onnxprune.torch_twin.tensors import TORCH

Values = dict[str, Any]


@dataclass(frozen=True, eq=False)
class _Step:
    call: Call
    function: Function
    numbers: frozenset[int]
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    bodies: Mapping[str, "Program"]
    done: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Bodies:
    """The graphs in a node's attributes, which see what is known around them."""

    programs: Mapping[str, "Program"]
    values: Values
    away: bool

    def __call__(self, name: str, *inputs: Any) -> list[Any]:
        """Run the body in attribute `name`."""
        body = self.programs[name]
        return body.run({**self.values, **dict(zip(body.inputs, inputs, strict=True))}, self.away)

    def none_of(self, name: str, place: int) -> torch.Tensor:
        """No results of the body, stacked: as the graph tells their type and sizes, zero where it does not."""
        value = self.programs[name].results[place]
        sizes = [size if isinstance(size, int) else 0 for size in value.shape or ()]
        return torch.zeros([0, *sizes], dtype=TORCH[value.dtype or ir.DataType.FLOAT])


class Program:
    """The nodes of a graph in order; what no later node reads is forgotten, unless a gradient needs it."""

    def __init__(self, graph: ir.Graph, model: ir.Model, keys: Mapping[ir.Value, str]) -> None:
        """`keys` are the names of constants; other values are known by their own."""
        self._keys = keys
        self.results = tuple(graph.outputs)
        self.inputs = tuple(value.name or "" for value in graph.inputs if value not in keys)
        self.outputs = tuple(self._key(value) for value in graph.outputs)
        nodes = [node for node in graph if not (is_constant(node) and node.outputs[0] in keys)]
        self._steps = [self._step(node, model, done) for node, done in zip(nodes, _last(nodes, graph), strict=True)]

    def run(self, values: Values, away: bool = False) -> list[Any]:
        """Compute the outputs from the inputs and constants in `values`, to which results are added.

        `away` is whether some of them are not on the CPU: the others then follow where they are used.
        """
        for step in self._steps:
            given = [None if name is None else values[name] for name in step.inputs]
            given = _together(given, step.numbers) if away else given
            more = {"run": Bodies(step.bodies, values, away)} if step.bodies else {}
            results = step.function(step.call, *given, **more)
            results = results if isinstance(results, tuple) else (results,)
            values.update((name, result) for name, result in zip(step.outputs, results, strict=False) if name)
            for name in step.done:
                values.pop(name, None)
        return [values[name] for name in self.outputs]

    def _step(self, node: ir.Node, model: ir.Model, done: tuple[str, ...]) -> _Step:
        domain = "" if node.domain == "ai.onnx" else node.domain
        call = call_of(node, model.opset_imports.get(domain, model.opset_imports.get("", 1)))
        key = domain, node.op_type
        function = _or_fallback(OPS.get(key), node, model)
        inside = {
            name: Program(attribute.as_graph(), model, self._keys)
            for name, attribute in node.attributes.items()
            if attribute.type == ir.AttributeType.GRAPH
        }
        inputs = tuple(None if value is None else self._key(value) for value in node.inputs)
        return _Step(
            call,
            function,
            NUMBERS.get(key, frozenset()),
            inputs,
            tuple(v.name or "" for v in node.outputs),
            inside,
            done,
        )

    def _key(self, value: ir.Value) -> str:
        return self._keys.get(value, value.name or "")


def _or_fallback(function: Function | None, node: ir.Node, model: ir.Model) -> Function:
    """The function, but computed outside of torch where it says that it does not know such a node."""
    outside = fallback(node, model)
    if function is None:
        return outside

    def compute(call: Call, *inputs: Any, **more: Any) -> Any:
        try:
            return function(call, *inputs, **more)
        except NotImplementedError:
            return outside(call, *inputs)

    return compute


def _together(given: list[Any], numbers: frozenset[int]) -> list[Any]:
    """Tensors beside the first that is on a device, but for those that are read as numbers."""
    tensors = [v for i, v in enumerate(given) if isinstance(v, torch.Tensor) and i not in numbers]
    device = next((tensor.device for tensor in tensors if tensor.device.type != "cpu"), None)
    if device is None:
        return given
    moved = (i not in numbers and isinstance(value, torch.Tensor) for i, value in enumerate(given))
    return [value.to(device) if moves else value for value, moves in zip(given, moved, strict=True)]


def _last(nodes: list[ir.Node], graph: ir.Graph) -> list[tuple[str, ...]]:
    """For each node, the results of the graph's nodes that it is the last to read; outputs are never done."""
    last: dict[ir.Value, int] = {}
    for number, node in enumerate(nodes):
        inside = captured_values(node) if bodies(node) else ()
        for value in (*node.outputs, *(v for v in node.inputs if v is not None), *inside):
            if value.graph is graph or value.producer() is node:
                last[value] = number
    kept = {*graph.outputs, *graph.inputs}
    done: list[list[str]] = [[] for _ in nodes]
    for value, number in last.items():
        if value not in kept and not value.is_initializer():
            done[number].append(value.name or "")
    return [tuple(names) for names in done]
