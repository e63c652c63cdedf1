"""Scores backward through one node: what its outputs count becomes what its inputs count, as its rule ties them.

The rule is run on the node alone, with an atom of its own for each labelled position of each input. Where an atom comes
out again, it has the score of those places; what is tied to such an atom has it too (both sides of an Add); a weight
hands on |W|ᵀ s; and where a rule tells nothing, the score is spread evenly. Scores are sums over all positions of an
atom (space, time, batch), so pooling, resizing and reshaping keep them.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.constants import computed_constants
from onnxprune.dependency import Analysis, Ledger, Seen, facts_of
from onnxprune.graph import Array, bodies
from onnxprune.labels import WHOLE, Atoms, Label, Labels
from onnxprune.native import F64
from onnxprune.op_rules.facts import Linear
from onnxprune.op_rules.gains import gain_of
from onnxprune.serialise import release
from onnxprune.weights import to_matrix, weight_of

ROUNDS = 4
"""Ties of ties that are followed within one node."""


@dataclass(frozen=True, eq=False)
class Score:
    """What a value counts: `parts` has an array for each of its labels, `whole` is their sum over all positions."""

    parts: tuple[F64, ...]
    whole: float

    def plus(self, other: "Score") -> "Score":
        """Of a value that is read twice."""
        return Score(tuple(a + b for a, b in zip(self.parts, other.parts, strict=True)), self.whole + other.whole)

    def times(self, factor: float) -> "Score":
        """Scaled."""
        return Score(tuple(part * factor for part in self.parts), self.whole * factor)


class Flow:
    """The nodes of an analysed model, to be gone through backward; `opened` is what `--open` names."""

    def __init__(self, analysis: Analysis, opened: Collection[str]) -> None:
        self._seen = Seen(analysis.model, analysis.trace, opened, computed_constants(analysis.model))
        self._labels: dict[ir.Value, list[Label]] = {}
        for slot in analysis.raw:
            if slot.reader is None:
                self._labels.setdefault(slot.value, []).append(slot.label)

    def labels(self, value: ir.Value) -> Labels:
        """The labels that a value's score has parts for, in atoms of the analysis."""
        return tuple(self._labels.get(value, ()))

    def carries(self, value: ir.Value | None) -> bool:
        """Whether a value is computed and real: sizes, indices and conditions count nothing."""
        if value is None or value.producer() is None or value in self._seen.computed:
            return False
        if not self._seen.trace.knows(value) or self._seen.trace.integers(value) is not None:
            return False
        return value in self._labels or value.dtype is None or value.dtype.is_floating_point()

    def back(self, node: ir.Node, scores: Mapping[ir.Value, Score]) -> dict[ir.Value, Score]:
        """The scores of what enters a node (the results of its bodies too), from those of its outputs."""
        ends = (value for body in bodies(node) for value in body.outputs)
        entering = dict.fromkeys(v for v in (*node.inputs, *ends) if v is not None and self.carries(v))
        given = {value: scores[value] for value in node.outputs if value in scores}
        if not entering or not given:
            return {}
        ledger = Ledger()
        for value in entering:
            ledger.labels[value] = tuple(_own(label, ledger) for label in self.labels(value))
        for fact in facts_of(node, self._seen, ledger):
            ledger.enter(node, fact)
        factor = gain_of(self._seen.op(node, ledger))
        whole = sum(score.whole for score in given.values()) * float(factor.mean())
        placed = [part for value, score in given.items() for part in self._placed(value, score, ledger, factor)]
        atoms = _Atoms(ledger.count, placed)
        layers = [linear for linear in ledger.linears if linear.x is not linear.y]
        read = _through_weights(self._seen.model, layers, atoms, whole)
        atoms.follow(ledger)
        return {value: _score(ledger.labels[value], *read.get(value, (atoms, whole))) for value in entering}

    def _placed(self, value: ir.Value, score: Score, ledger: Ledger, factor: Array) -> Iterator[tuple[Atoms, F64]]:
        """The atoms on an output and what each position there counts, scaled by the node's factor."""
        rank = len(self._seen.trace.shape(value))
        for label in ledger.labels.get(value, ()):
            counts = _onto(label, self.labels(value), score)
            yield label.atoms, counts * _along(factor, label.axes, rank)


def _own(label: Label, ledger: Ledger) -> Label:
    """A label with an atom of its own for each position."""
    return Label(label.axes, ledger.fresh(label.atoms.size).reshape(label.atoms.shape))


def _onto(label: Label, known: Labels, score: Score) -> F64:
    """A score by the positions of a label, from the part that lies on the same axes, on fewer or on more of them."""
    shape = label.atoms.shape
    for one, part in zip(known, score.parts, strict=True):
        if set(one.axes) >= set(label.axes):
            others = tuple(i for i, axis in enumerate(one.axes) if axis not in label.axes)
            return np.asarray(part.sum(axis=others))
    for one, part in zip(known, score.parts, strict=True):
        if set(one.axes) < set(label.axes):
            dims = [size if axis in one.axes else 1 for axis, size in zip(label.axes, shape, strict=True)]
            return np.broadcast_to(part.reshape(dims) * part.size / label.atoms.size, shape)
    return np.full(shape, score.whole / label.atoms.size)


def _along(factor: Array, axes: tuple[int, ...], rank: int) -> F64:
    """A factor that broadcasts to an output of this rank, as it is along these axes: the mean over the others."""
    padded = factor.reshape((1,) * (rank - factor.ndim) + factor.shape)
    others = tuple(axis for axis in range(rank) if axis not in axes)
    return np.asarray(padded.mean(axis=others))


class _Atoms:
    """What each atom of one node counts, as far as that is known."""

    def __init__(self, count: int, placed: Sequence[tuple[Atoms, F64]] = ()) -> None:
        self.placed = placed
        self.total = np.zeros(count + 1)  # the last one stands for WHOLE
        self.known = np.zeros(count + 1, np.bool_)
        for atoms, counts in self.placed:
            np.add.at(self.total, atoms, counts)
            self.known[atoms] = True

    def each(self, atoms: Atoms) -> F64 | None:
        """What each position counts of an output that has these atoms; where they repeat otherwise, their mean."""
        alike = [n.reshape(atoms.shape) for placed, n in self.placed if np.array_equal(placed.ravel(), atoms.ravel())]
        if alike:
            return np.asarray(sum(alike))
        if not self.known[atoms].any():
            return None
        times = np.max(
            [np.bincount(placed.ravel() + 1, minlength=self.total.size) for placed, _ in self.placed], axis=0
        )
        return np.asarray(self.total[atoms] / np.maximum(times[atoms + 1], 1))

    def follow(self, ledger: Ledger) -> None:
        """Hand on what is known to the atoms that are tied to it, and between lines and their positions."""
        once = self.total.copy()
        for left, right in ledger.ties:
            if np.array_equal(left, right):  # the same tensor twice: x + x
                self.total[left] += once[left]
        for _ in range(ROUNDS):
            for left, right in ledger.ties:
                self._hand(left, right)
                self._hand(right, left)
            for lines in ledger.lines:
                self._between(np.moveaxis(lines.label.atoms, lines.axis, 0).reshape(lines.atoms.size, -1), lines.atoms)

    def _hand(self, source: Atoms, target: Atoms) -> None:
        new = self.known[source] & ~self.known[target] & (source != WHOLE) & (target != WHOLE)
        if new.any():
            counts = np.zeros(self.total.size)
            np.add.at(counts, target[new], self.total[source[new]])
            self.total[target[new]] = counts[target[new]]
            self.known[target[new]] = True

    def _between(self, positions: Atoms, lines: Atoms) -> None:
        if self.known[positions].any() and not self.known[lines].any():
            self.total[lines] = self.total[positions].sum(axis=1)
            self.known[lines] = True
        elif self.known[lines].any() and not self.known[positions].any():
            self.total[positions] = (self.total[lines] / positions.shape[1])[:, None]
            self.known[positions] = True


def _through_weights(
    model: ir.Model, layers: Iterable[Linear], atoms: _Atoms, whole: float
) -> dict[ir.Value, tuple[_Atoms, float]]:
    """What the inputs of layers count, by atom, and in all: |W|ᵀ s."""
    found: dict[ir.Value, tuple[_Atoms, float]] = {}
    for linear in layers:
        counts = atoms.each(linear.outputs)
        if counts is None:
            counts = np.full(linear.outputs.shape, whole / linear.outputs.size)
        weight = to_matrix(linear, weight_of(model, linear))
        pairs = zip(counts, weight, strict=True)
        inner = np.stack([own @ np.abs(block).astype(np.float64) for own, block in pairs])
        release(linear.weight.const_value)
        into, before = found.get(linear.x, (None, 0.0))
        into = into or _Atoms(atoms.total.size - 1)
        np.add.at(into.total, linear.features, inner)
        into.known[linear.features] = True
        found[linear.x] = into, before + float(inner.sum())
    return found


def _score(labels: Labels, atoms: _Atoms, whole: float) -> Score:
    """What is known of these labels; those of which nothing is share the whole evenly."""
    known = [bool(atoms.known[label.atoms].any()) for label in labels]
    parts = [atoms.total[label.atoms] for label in labels]
    whole = max((float(part.sum()) for part, here in zip(parts, known, strict=True) if here), default=whole)
    evenly = [np.full(label.atoms.shape, whole / label.atoms.size) for label in labels]
    return Score(tuple(p if k else e for p, k, e in zip(parts, known, evenly, strict=True)), whole)
