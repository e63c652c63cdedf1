"""Local functions: the calls through which a channel can go are inlined, the others stay calls."""

import logging
from collections.abc import Callable, Collection

import numpy as np
import onnx_ir as ir

from onnxprune.dependency import Analysis, analyse
from onnxprune.errors import BadInput
from onnxprune.graph import every_node
from onnxprune.passes.inline import inlinable, inline
from onnxprune.passes.normalise import normalise
from onnxprune.trace import Trace

_log = logging.getLogger(__name__)


def analysed(
    model: ir.Model, trace: Callable[[ir.Model], Trace], closed: Collection[str] = (), opened: Collection[str] = ()
) -> Analysis:
    """The analysis of a normalised model, with the calls inlined that channels pass through; those in `closed` stay.

    `opened` is what `--open` names.
    """
    if not inlinable(model) - set(closed):
        return analyse(model, trace(model), opened)
    try:
        return _inlined(model, trace, closed, opened)
    except (BadInput, ValueError, RuntimeError) as error:  # the inliner's own, or the runtime's on what it made
        _log.info("local functions stay calls: %s", error)
        return analyse(model, trace(model), opened)


def _inlined(
    model: ir.Model, trace: Callable[[ir.Model], Trace], closed: Collection[str], opened: Collection[str]
) -> Analysis:
    calls: set[str] = set()
    flat = model
    while new := inlinable(flat) - set(closed):
        calls |= new
        flat = normalise(inline(flat, new))
    analysis = analyse(flat, trace(flat), opened)
    used = _crossed(analysis, calls)
    if used == calls:
        return analysis
    flat = normalise(inline(model, used))
    return analyse(flat, trace(flat), opened)


def _crossed(analysis: Analysis, calls: Collection[str]) -> set[str]:
    """The calls in which a node reads or makes channels of an open group."""
    open_ = np.zeros(analysis.units + 1, np.bool_)
    for group in analysis.groups:
        open_[group.units] = True
    carrying = {slot.value for slot in analysis.slots if np.any(open_[slot.label.atoms])}
    nodes = [n for n in every_node(analysis.model) if carrying.intersection((*n.inputs, *n.outputs))]
    prefixes = {name[:at] for name in (n.name or "" for n in nodes) for at in range(len(name)) if name[at] == "/"}
    return prefixes.intersection(calls)
