"""Which branches the calibration inputs take: the same one on every input, or not."""

import numpy as np
import onnx_ir as ir

from onnxprune.branches import take_branches
from onnxprune.calibration.source import Source
from onnxprune.graph import array_of, bodies
from onnxprune.runtime import open_session, run


def branches_taken(model: ir.Model, source: Source) -> dict[str, str]:
    """Node name → "then_branch" or "else_branch", for each If with weights in it that takes that one on all inputs.

    Those in a taken branch are looked at too, those in a loop are not.
    """
    taken: dict[str, str] = {}
    seen: set[str] = set()
    flat = model
    while conditions := _conditions(flat, seen):
        seen |= conditions.keys()
        found = _values(flat, source, set(conditions.values()))
        always = {name: found[condition] for name, condition in conditions.items() if len(found[condition]) == 1}
        taken |= {name: "then_branch" if value == {True} else "else_branch" for name, value in always.items()}
        flat = take_branches(model, taken)
    return taken


def _conditions(model: ir.Model, seen: set[str]) -> dict[str, ir.Value]:
    """The condition of each If node in the main graph that has weights in it."""
    nodes = [node for node in model.graph if node.op_type == "If" and node.name not in seen and _holds_weights(node)]
    return {node.name or "": node.inputs[0] for node in nodes if node.inputs[0] is not None}


def _holds_weights(node: ir.Node) -> bool:
    read = (v for body in bodies(node) for inner in body.all_nodes() for v in inner.inputs if v is not None)
    return any(v.const_value is not None and len(v.const_value.shape) > 1 for v in read)


def _values(model: ir.Model, source: Source, conditions: set[ir.Value]) -> dict[ir.Value, set[bool]]:
    """What each condition is on some input."""
    found = {v: {bool(array_of(v))} if v.const_value is not None else set[bool]() for v in conditions}
    variable = {value.name or "": value for value in conditions if value.const_value is None}
    computed = sorted(name for name, value in variable.items() if not value.is_graph_input())
    session = open_session(model, outputs=computed) if computed else None
    for feeds in source.batches() if variable else ():
        values = {**feeds, **(run(session, feeds) if session is not None else {})}
        for name, value in variable.items():
            found[value].add(bool(np.all(values[name])))
    return found
