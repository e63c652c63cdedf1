"""Put what a local function holds in the place of single calls of it."""

from collections.abc import Collection
from functools import partial

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, RemoveUnusedFunctionsPass

from onnxprune.graph import bodies, callee, every_node, why_not_inlined
from onnxprune.passes.normalise import name_nodes


def inline(model: ir.Model, calls: Collection[str]) -> ir.Model:
    """The model with the named calls of local functions replaced by what they call; other calls stay.

    What comes from a call bears its name as a prefix, "call/node". It may be a call itself, and be named too.
    """
    model = model.clone()
    while chosen := [node for node in every_node(model) if node.name in calls and _inlinable(model, node)]:
        for node in chosen:
            _own_function(model, node)
        own = {node.overload for node in chosen}
        InlinePass(criteria=partial(_is_one_of, own))(model)
    RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    return model


def _is_one_of(overloads: Collection[str], function: ir.Function) -> bool:
    return function.overload in overloads


def inlinable(model: ir.Model) -> set[str]:
    """The names of the calls of local functions that can be inlined."""
    return {node.name or "" for node in every_node(model) if _inlinable(model, node)}


def _inlinable(model: ir.Model, node: ir.Node) -> bool:
    function = callee(model, node)
    return function is not None and not bodies(node) and not why_not_inlined(model, function)


def _own_function(model: ir.Model, node: ir.Node) -> None:
    """The inliner takes all calls of a function: give this one a function of its own, with names that tell the call."""
    function = callee(model, node)
    assert function is not None
    own = function.clone()
    own.overload = node.overload = node.name or ""
    name_nodes(own.graph)
    for inner in own.all_nodes():
        inner.name = f"{node.name}/{inner.name}"
        for value in inner.outputs:
            value.name = value.name and f"{node.name}/{value.name}"
    model.functions[own.identifier()] = own
