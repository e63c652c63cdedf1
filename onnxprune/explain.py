"""Why channels can go at a node, or cannot: what lies on its tensors, what that is tied to, and what holds it."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from onnxprune.dependency import Analysis
from onnxprune.errors import BadInput
from onnxprune.graph import every_node
from onnxprune.grouping import Group, Slot
from onnxprune.labels import WHOLE

SHOWN = 6
"""Names of neighbours that are told."""


def explain(analysis: Analysis, name: str) -> tuple[str, ...]:
    """Sentences about the node called `name`, or about the node that makes the tensor of that name.

    Raises BadInput where the model has no such node or tensor.
    """
    node = _find(analysis.model, name)
    said = [f"{node.name} is a {node.op_type}" + (f" of {node.domain}" if node.domain else "")]
    tensors = [*(("reads", v) for v in node.inputs), *(("makes", v) for v in node.outputs)]
    for verb, value in tensors:
        if value is not None:
            found = [sentence for pair in _slots(analysis, node, value) for sentence in _label(analysis, *pair)]
            said += [f"it {verb} {value.name!r}: {sentence}" for sentence in found or ["no prunable channels"]]
    return tuple(said)


def _find(model: ir.Model, name: str) -> ir.Node:
    nodes = list(every_node(model))
    exact = [node for node in nodes if node.name == name or any(v.name == name for v in node.outputs)]
    if not exact:
        raise BadInput(
            f"--why {name!r}: the model has no node or computed tensor of that name; inspect --verbose lists names"
        )
    return exact[0]


def _slots(analysis: Analysis, node: ir.Node, value: ir.Value) -> Iterator[tuple[Slot, Slot]]:
    """The labels of a tensor as this node knows them: in units, and in atoms."""
    for slot, raw in zip(analysis.slots, analysis.raw, strict=True):
        if slot.value is value and slot.reader in (None, node):
            yield slot, raw


def _label(analysis: Analysis, slot: Slot, raw: Slot) -> Iterator[str]:
    axes = " and ".join(str(axis) for axis in slot.label.axes)
    where = f"{slot.label.atoms.size} positions of axis {axes}"
    for group in analysis.groups:
        inside = np.isin(slot.label.atoms, group.units)
        if inside.any():
            yield f"{where}, {int(inside.sum())} of them can go with {_described(group)}"
    atoms = raw.label.atoms[(slot.label.atoms == WHOLE) & (raw.label.atoms != WHOLE)]
    resolved = analysis.resolved
    reasons = Counter(resolved.reasons[c] for c in resolved.component[atoms].tolist())
    for reason, count in reasons.items():
        yield f"{where}, {count} of them stay: {reason}"


def _described(group: Group) -> str:
    blocks = "" if group.units.size == group.width else f", in {group.width} blocks"
    rows = "" if group.rows is None else f", equally many from each of {group.row_count} rows"
    made, read = (_names([x.node.name or "" for x in layers]) for layers in (group.writers, group.readers))
    return f"group {group.name!r}{blocks}{rows} (made by {made or 'no layer'}; read by {read or 'no layer'})"


def _names(names: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(names))
    more = f" and {len(distinct) - SHOWN} more" if len(distinct) > SHOWN else ""
    return ", ".join(distinct[:SHOWN]) + more
