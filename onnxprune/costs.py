"""What a choice of widths costs: multiply–adds and parameters, counted from the graph."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from scipy.sparse import csr_array

from onnxprune.dependency import Analysis
from onnxprune.graph import STATE, constants, every_node
from onnxprune.labels import WHOLE, Atoms, Label
from onnxprune.op_rules.facts import Linear, Product

Widths = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]
Kept = tuple[Float, Float]
"""(…, L) numbers of a product for each column, and for each row, of a layer's weight; infinite for a whole layer."""


@dataclass(frozen=True, eq=False)
class CostModel:
    """Counts of every constant's elements as a product of forms that are linear in the widths of the groups.

    `rest` (T,) elements on unlabelled axes; `forms` K of them, padded with 1; `weight_macs` (T,) multiply–adds of one
    element a sample; `stored` (T,) 1 for constants of the file, 0 for computed ones and products of activations;
    `fixed_macs` what no width changes; `came` the elements of the model as it came, with BatchNorms and without the
    biases that were added, and `came_macs` its multiply–adds, None for those at full width; `wide` counts the model
    before its first cut, where this is not that.
    """

    rest: Float
    forms: tuple["Forms", ...]
    weight_macs: Float
    stored: Float
    fixed_macs: float
    full: Widths
    combined: tuple[tuple[int, ...], ...]
    came: int
    analysis: Analysis
    wide: "CostModel | None" = None
    came_macs: float | None = None

    @property
    def before(self) -> "CostModel":
        """The costs before the first cut."""
        return self.wide or self

    def whole(self, kind: str) -> float:
        """What shares of the budget refer to: the multiply–adds ("macs") or parameters of the model as it came."""
        before = self.before
        if kind != "macs":
            return float(before.came)
        return float(before.macs(before.full)) if before.came_macs is None else before.came_macs

    def elements(self, widths: npt.NDArray[np.generic]) -> Float:
        """(…, T) the elements that stay, for widths (…, groups)."""
        columns, found = _columns(widths, self.combined), self.rest
        for forms in self.forms:
            found = found * forms(columns)
        return np.asarray(np.broadcast_to(found, (*widths.shape[:-1], self.rest.size)))

    def macs(self, widths: npt.NDArray[np.generic]) -> Float:
        """Multiply–adds of one sample, for widths (…, groups)."""
        return np.asarray(self.elements(widths) @ self.weight_macs + self.fixed_macs)

    def params(self, widths: npt.NDArray[np.generic]) -> Float:
        """Elements of all constants, for widths (…, groups)."""
        return np.asarray(self.elements(widths) @ self.stored)

    def weights(self, widths: npt.NDArray[np.generic]) -> Float:
        """Elements of the constants that layers multiply by, all of which a run reads (it does no embedding's)."""
        return np.asarray(self.elements(widths) @ (self.stored * (self.weight_macs > 0)))

    def each(self) -> tuple[Float, Float]:
        """The multiply–adds and the parameters that go when all of one group goes, (groups,) each; the sums overlap."""
        columns, groups = _columns(self.full, self.combined), np.arange(self.full.size)
        members = [*((g,) for g in groups.tolist()), *self.combined]
        index = np.repeat(np.arange(len(members)), [len(own) for own in members])
        takes = csr_array((columns[index], (index, np.concatenate(members))), shape=(columns.size, groups.size))
        lost = [(forms.slope @ takes).tocsr() for forms in self.forms]
        tensor, group = sum(lost[1:], lost[0]).nonzero()
        before = after = self.rest[tensor]
        for forms, goes in zip(self.forms, lost, strict=True):
            whole = forms(columns)[tensor]
            before, after = before * whole, after * (whole - np.asarray(goes[tensor, group]).reshape(-1))
        macs, params = np.zeros(groups.size), np.zeros(groups.size)
        np.add.at(macs, group, (before - after) * self.weight_macs[tensor])
        np.add.at(params, group, (before - after) * self.stored[tensor])
        return macs, params


@dataclass(frozen=True, eq=False)
class Forms:
    """One linear form a row: `constant` (T,) + `slope` (T, columns) · columns, a column a group or a combination."""

    constant: Float
    slope: csr_array

    def __call__(self, columns: Float) -> Float:
        """(…, T) for (…, columns)."""
        *leading, count = columns.shape
        flat = (self.slope @ columns.reshape(int(np.prod(leading)), count).T).T + self.constant
        return np.asarray(flat.reshape(*leading, self.constant.size))


def _forms(rows: Sequence[tuple[int, Label]], count: int, owner: "_Owners") -> Forms:
    """The forms of some of `count` rows, the others 1."""
    constant, at, columns, slopes = np.ones(count), [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
    for row, label in rows:
        constant[row], own, factors = _form(label, owner)
        at.append(np.full(own.size, row))
        columns.append(own)
        slopes.append(factors)
    places = np.concatenate(at), np.concatenate(columns)
    return Forms(constant, csr_array((np.concatenate(slopes), places), shape=(count, owner.all.size)))


def parameters(model: ir.Model) -> int:
    """Elements of all constants."""
    return sum(v.const_value.size for v in constants(model) if v.const_value is not None)


@dataclass(frozen=True, eq=False)
class _Owners:
    """The column of each unit: of its group, or of the combination of groups any of which takes it away; −1: none."""

    column: npt.NDArray[np.int64]
    combined: tuple[tuple[int, ...], ...]
    full: Widths

    @cached_property
    def all(self) -> Float:
        """The columns at full width."""
        return _columns(self.full, self.combined)


def _columns(widths: npt.NDArray[np.generic], combined: Sequence[tuple[int, ...]]) -> Float:
    """Widths (…, groups), and behind them the product of the widths of each combination."""
    counts: Float = widths.astype(np.float64)
    products = [np.prod(counts[..., list(groups)], axis=-1, keepdims=True) for groups in combined]
    return np.concatenate([counts, *products], axis=-1)


def _owners(analysis: Analysis) -> _Owners:
    full = np.array([group.width for group in analysis.groups], np.int64)
    column = np.full(analysis.units + 1, WHOLE)
    several: dict[int, tuple[int, ...]] = {}
    for index, group in enumerate(analysis.groups):
        for unit in group.units[column[group.units] != WHOLE].tolist():
            several[unit] = (*several.get(unit, (int(column[unit]),)), index)
        column[group.units[column[group.units] == WHOLE]] = index
    combined = {groups: full.size + i for i, groups in enumerate(dict.fromkeys(several.values()))}
    for unit, groups in several.items():
        column[unit] = combined[groups]
    return _Owners(column, tuple(combined), full)


def cost_model(
    analysis: Analysis,
    original: ir.Model | None = None,
    wide: CostModel | None = None,
    macs_of_it: float | None = None,
) -> CostModel:
    """Count the analysed model; exact where a group's units lie equally often in each tensor, as they mostly do.

    `original` is the model before layers were folded and given biases, if not the same; and `macs_of_it` what it takes,
    if it has another head.
    """
    owner, batch = _owners(analysis), max(analysis.trace.batch, 1)
    macs: dict[ir.Value, float] = {}
    for linear in (x for x in analysis.linears if x.node not in analysis.idle):
        macs[linear.weight] = macs.get(linear.weight, 0.0) + linear.macs / batch
    slots = analysis.param_slots()
    values = constants(analysis.model)
    stored = len(values)
    values += [value for value in macs if value.const_value is None]
    labels = [{slot.label.axes: slot.label for slot in slots.get(value, [])} for value in values]
    rest = [_unlabelled(analysis.trace.shape(v), own) for v, own in zip(values, labels, strict=True)]
    weight_macs = [macs.get(value, 0.0) for value in values]
    products = [product for product in analysis.products if product.node not in analysis.idle]
    for product, along in _labelled(products):
        labels.append({(0,): along})
        rest.append(1.0)
        weight_macs.append(product.macs / batch / along.atoms.size)
    most = max((len(own) for own in labels), default=0)
    by_rank = [[(t, list(own.values())[k]) for t, own in enumerate(labels) if len(own) > k] for k in range(most)]
    fixed = sum(product.macs for product in products if product.label is None) / batch
    is_stored = np.arange(len(labels)) < stored
    chosen = {node.inputs[1] for node in every_node(analysis.model) if STATE in node.meta}  # written as indices
    is_stored[[t for t, value in enumerate(values) if value in chosen]] = False
    return CostModel(
        np.array(rest),
        tuple(_forms(rows, len(labels), owner) for rows in by_rank),
        np.array(weight_macs),
        is_stored.astype(np.float64),
        fixed,
        owner.full,
        owner.combined,
        parameters(original or analysis.model),
        analysis,
        wide,
        macs_of_it,
    )


def _labelled(products: Sequence[Product]) -> list[tuple[Product, Label]]:
    """The products of activations whose size follows a label, which is laid out flat."""
    found = [(product, product.label) for product in products]
    return [(product, Label((0,), label.atoms.reshape(-1))) for product, label in found if label is not None]


@dataclass(frozen=True, eq=False)
class ProductCost:
    """What L layers save as products, for widths (…, groups): so much stays for each of their columns and rows.

    `macs` (L,) multiply–adds of one weight element a sample.
    """

    inner: Forms
    outer: Forms
    macs: Float
    combined: tuple[tuple[int, ...], ...]

    def sizes(self, widths: npt.NDArray[np.generic]) -> tuple[Float, Float]:
        """(…, L) columns and rows that the weights have at these widths."""
        columns = _columns(widths, self.combined)
        return self.inner(columns), self.outer(columns)

    def saved(self, widths: npt.NDArray[np.generic], kept: Kept, kind: str) -> Float:
        """The multiply–adds of one sample, or the parameters; none where a product is no smaller."""
        columns = _columns(widths, self.combined)
        inner, outer = self.inner(columns), self.outer(columns)
        less = np.maximum(inner * outer - (kept[0] * inner + kept[1] * outer), 0.0)
        return np.asarray(less @ (self.macs if kind == "macs" else np.ones(len(self.macs))))


def product_cost(analysis: Analysis, linears: Sequence[Linear]) -> ProductCost:
    """Of layers with one block of weights."""
    owner = _owners(analysis)
    labels = [[(i, Label((0,), part[0])) for i, part in enumerate(parts)] for parts in _sides(linears)]
    inner, outer = (_forms(rows, len(linears), owner) for rows in labels)
    macs = np.array([linear.macs for linear in linears]) / max(analysis.trace.batch, 1)
    return ProductCost(inner, outer, macs, owner.combined)


def _sides(linears: Sequence[Linear]) -> tuple[list[Atoms], list[Atoms]]:
    return [linear.features for linear in linears], [linear.outputs for linear in linears]


@dataclass(frozen=True, eq=False)
class ActivationCost:
    """Numbers that the activations of one sample hold, for widths (…, groups): `rest` (T,) on unlabelled axes."""

    rest: Float
    forms: tuple[Forms, ...]
    combined: tuple[tuple[int, ...], ...]

    def __call__(self, widths: npt.NDArray[np.generic]) -> Float:
        """Summed over all values that carry channels."""
        columns, found = _columns(widths, self.combined), self.rest
        for forms in self.forms:
            found = found * forms(columns)
        return np.asarray(found.sum(-1))


def activation_cost(analysis: Analysis) -> ActivationCost:
    """Count what the nodes of one inference compute; what no channel lies on is left out."""
    owner, labels = _owners(analysis), defaultdict[ir.Value, dict[tuple[int, ...], Label]](dict)
    for slot in analysis.slots:
        if slot.reader is None and slot.value.producer() not in analysis.idle:
            labels[slot.value][slot.label.axes] = slot.label
    batch = max(analysis.trace.batch, 1)
    rest = [_unlabelled(analysis.trace.shape(value), own) / batch for value, own in labels.items()]
    most = max((len(own) for own in labels.values()), default=0)
    every = list(labels.values())
    by_rank = [[(t, list(own.values())[k]) for t, own in enumerate(every) if len(own) > k] for k in range(most)]
    return ActivationCost(np.array(rest), tuple(_forms(rows, len(every), owner) for rows in by_rank), owner.combined)


def _unlabelled(shape: tuple[int, ...], labels: dict[tuple[int, ...], Label]) -> float:
    labelled = {axes[-1] for axes in labels}
    return float(np.prod([d for axis, d in enumerate(shape) if axis not in labelled]))


def _form(label: Label, owner: _Owners) -> tuple[float, Widths, Float]:
    """Positions along a label's last axis: how many stay whole, and how many each unit of some columns has there.

    A label over two axes (grouped convolutions) has rows that keep equally many: take their mean.
    """
    columns, counts = np.unique(owner.column[label.atoms.reshape(-1)], return_counts=True)
    scale = 1 / label.atoms.shape[0] if label.atoms.ndim > 1 else 1.0
    moves = columns != WHOLE
    per_column = counts[moves] / np.maximum(owner.all[columns[moves]], 1) * scale
    return float(counts[~moves].sum()) * scale, columns[moves], per_column
