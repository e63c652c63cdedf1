"""One operator, seen by its rule: labels in, facts out, as plain values."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from graph_text import Weights, model_from_text

from onnxprune.labels import Label, Labels
from onnxprune.op_rules import RULES, Op
from onnxprune.op_rules.facts import Balanced, Fact, Fixed, Index, Linear, Out, Param, Size, Tie
from onnxprune.trace import Trace, trace

Labelled = Mapping[str, Mapping[tuple[int, ...], Sequence[Any]]]
"""Value name → axes → atoms."""
FIRST_FRESH = 100


def facts_of(
    node: str,
    shapes: Mapping[str, tuple[int, ...]],
    labelled: Labelled,
    weights: Weights | None = None,
    opset: int = 17,
    made: Mapping[str, tuple[int, ...]] | None = None,
) -> list[Fact]:
    """What the rule of the last node of this text says; `shapes` are those of the float inputs, outputs named y…

    The shapes of results are those of a run, or as `made` tells them where the runtime has no such operator.
    """
    signature = ", ".join(f"float{list(shape)} {name}" for name, shape in shapes.items())
    proto = model_from_text(f"({signature}) => (float[] y)", node, weights or {}, opset)
    proto.graph.output[0].type.Clear()
    model = ir.from_proto(proto)
    rng = np.random.default_rng(0)
    feeds = {name: rng.random(shape).astype(np.float32) for name, shape in shapes.items()}
    known = trace(model, feeds) if made is None else Trace({**shapes, **made}, {}, 1)
    last = list(model.graph)[-1]
    values = {value.name: value for value in (*model.graph.inputs, *(v for n in model.graph for v in n.outputs))}
    labels: dict[ir.Value, Labels] = {
        values[name]: tuple(Label(axes, np.array(atoms)) for axes, atoms in found.items())
        for name, found in labelled.items()
    }
    count = [FIRST_FRESH]

    def fresh(number: int) -> np.ndarray:
        count[0] += number
        return np.arange(count[0] - number, count[0])

    return list(RULES[last.domain, last.op_type](Op(last, opset, labels, known, fresh)))


def outs(facts: Sequence[Fact], index: int = 0) -> dict[tuple[int, ...], list[Any]]:
    """Axes → atoms of one output."""
    return {x.axes: x.atoms.tolist() for f in facts if isinstance(f, Out) and f.index == index for x in f.labels}


def params(facts: Sequence[Fact], index: int) -> dict[tuple[int, ...], tuple[list[Any], bool]]:
    """Axes → atoms, and whether the operator sums over them, of one constant."""
    found = [f for f in facts if isinstance(f, Param) and f.index == index]
    return {f.label.axes: (f.label.atoms.tolist(), f.contracted) for f in found}


def fixed(facts: Sequence[Fact]) -> list[int]:
    """All atoms that the rule fixes."""
    return sorted({atom for f in facts if isinstance(f, Fixed) for atom in f.atoms.reshape(-1).tolist()})


def ties(facts: Sequence[Fact]) -> list[tuple[list[Any], list[Any]]]:
    return [(f.left.tolist(), f.right.tolist()) for f in facts if isinstance(f, Tie)]


def balanced(facts: Sequence[Fact]) -> list[list[list[int]]]:
    return [f.atoms.tolist() for f in facts if isinstance(f, Balanced)]


def sizes(facts: Sequence[Fact]) -> list[tuple[int | str, int | None, list[Any], int | None]]:
    """(place, element, atoms, how many of them count) of each rewritten integer."""
    return [(f.place, f.element, f.label.atoms.tolist(), f.upto) for f in facts if isinstance(f, Size)]


def indices(facts: Sequence[Fact]) -> list[list[int]]:
    return [f.label.atoms.tolist() for f in facts if isinstance(f, Index)]


def linear(facts: Sequence[Fact]) -> Linear:
    (found,) = linears(facts)
    return found


def linears(facts: Sequence[Fact]) -> list[Linear]:
    return [f for f in facts if isinstance(f, Linear)]
