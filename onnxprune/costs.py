"""What a choice of widths costs: multiply–adds and parameters, counted from the graph."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxprune.dependency import Analysis
from onnxprune.labels import WHOLE, Atoms

Widths = npt.NDArray[np.int64]
Form = tuple[float, npt.NDArray[np.float64]]
"""A count that is linear in the widths: a constant and one coefficient a group."""


@dataclass(frozen=True, eq=False)
class Counted:
    """A constant's number of elements as a product of linear forms, and the multiply–adds of one element per sample."""

    rest: int
    forms: tuple[Form, ...]
    macs: float

    def elements(self, widths: Widths) -> float:
        """How many elements stay at these widths."""
        return float(self.rest * np.prod([constant + slope @ widths for constant, slope in self.forms]))


@dataclass(frozen=True, eq=False)
class CostModel:
    """Totals for any widths of the groups, in the analysis's order of groups."""

    counted: tuple[Counted, ...]
    fixed_macs: float
    full: Widths

    def macs(self, widths: Widths) -> float:
        """Multiply–adds of one sample."""
        return self.fixed_macs + sum(c.macs * c.elements(widths) for c in self.counted if c.macs)

    def params(self, widths: Widths) -> float:
        """Elements of all constants."""
        return sum(c.elements(widths) for c in self.counted)


def cost_model(analysis: Analysis) -> CostModel:
    """Count the analysed model. Exact where units of a group lie equally often in each tensor, as they nearly always do."""
    owner = np.full(analysis.units + 1, WHOLE)
    for index, group in enumerate(analysis.groups):
        owner[group.units] = index
    full = np.array([group.width for group in analysis.groups], np.int64)
    batch = max(analysis.trace.batch, 1)
    macs: dict[object, float] = {}
    for linear in analysis.linears:
        macs[linear.weight] = macs.get(linear.weight, 0.0) + linear.macs / batch
    slots = analysis.param_slots()
    counted = []
    for value in analysis.model.graph.initializers.values():
        shape = analysis.trace.shape(value)
        labels = {slot.label.axes: slot.label for slot in slots.get(value, [])}
        forms = [_form(label.atoms, owner, full, rows=label.axes != label.axes[-1:]) for label in labels.values()]
        labelled = {label.axes[-1] for label in labels.values()}
        rest = int(np.prod([d for a, d in enumerate(shape) if a not in labelled], dtype=np.int64))
        counted.append(Counted(rest, tuple(forms), macs.get(value, 0.0)))
    return CostModel(tuple(counted), sum(p.macs for p in analysis.products) / batch, full)


def _form(atoms: Atoms, owner: npt.NDArray[np.int64], full: Widths, rows: bool) -> Form:
    """Positions along an axis as a form in the widths; of several rows (grouped convolutions) the mean."""
    owners = owner[atoms.reshape(-1)]
    scale = 1 / atoms.shape[0] if rows else 1.0
    per_group = np.bincount(owners[owners != WHOLE], minlength=full.size)[: full.size] / full if full.size else full * 1.0
    return float(np.sum(owners == WHOLE)) * scale, per_group * scale


def totals(model_costs: CostModel, widths: Sequence[int] | Widths) -> tuple[float, float]:
    """(multiply–adds, parameters) at these widths."""
    array = np.asarray(widths, np.int64)
    return model_costs.macs(array), model_costs.params(array)


