"""What a choice of widths costs: multiply–adds and parameters, counted from the graph."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.dependency import Analysis
from onnxprune.labels import WHOLE, Label

Widths = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CostModel:
    """Counts of every constant's elements as a product of forms that are linear in the widths of the groups.

    `rest` (T,) elements on unlabelled axes; `constant` (K, T) and `slope` (K, T, groups) the forms, padded with 1;
    `stored` (T,) is 0 for the constants that the graph computes: they multiply, and are no parameters;
    `weight_macs` (T,) multiply–adds of one element a sample; `fixed_macs` what no width changes; `came` the elements of
    the model as it came, with BatchNorms and without the biases that were added.
    """

    rest: Float
    constant: Float
    slope: Float
    stored: Float
    weight_macs: Float
    fixed_macs: float
    full: Widths
    came: int

    def elements(self, widths: npt.NDArray[np.generic]) -> Float:
        """(…, T) the elements that stay, for widths (…, groups)."""
        forms = [c + widths @ s.T for c, s in zip(self.constant, self.slope, strict=True)]
        return np.asarray(self.rest * np.prod(forms, axis=0))

    def macs(self, widths: npt.NDArray[np.generic]) -> Float:
        """Multiply–adds of one sample, for widths (…, groups)."""
        return np.asarray(self.elements(widths) @ self.weight_macs + self.fixed_macs)

    def params(self, widths: npt.NDArray[np.generic]) -> Float:
        """Elements of all constants, for widths (…, groups)."""
        return np.asarray(self.elements(widths) @ self.stored)


def parameters(model: ir.Model) -> int:
    """Elements of all constants."""
    return sum(v.const_value.size for v in model.graph.initializers.values() if v.const_value is not None)


def cost_model(analysis: Analysis, original: ir.Model | None = None) -> CostModel:
    """Count the analysed model; exact where a group's units lie equally often in each tensor, as they mostly do.

    `original` is the model before layers were folded and given biases, if not the same.
    """
    owner = _owners(analysis)
    full = np.array([group.width for group in analysis.groups], np.int64)
    batch = max(analysis.trace.batch, 1)
    macs: dict[ir.Value, float] = {}
    for linear in analysis.linears:
        macs[linear.weight] = macs.get(linear.weight, 0.0) + linear.macs / batch
    slots = analysis.param_slots()
    values = [v for v in analysis.model.graph.initializers.values() if v.const_value is not None]
    stored = len(values)
    values += [value for value in macs if value.const_value is None]
    labels = [{slot.label.axes: slot.label for slot in slots.get(value, [])} for value in values]
    most = max((len(own) for own in labels), default=0)
    constant, slope = np.ones((most, len(values))), np.zeros((most, len(values), full.size))
    for t, own in enumerate(labels):
        for k, label in enumerate(own.values()):
            constant[k, t], slope[k, t] = _form(label, owner, full)
    rest = [_unlabelled(analysis.trace.shape(v), own) for v, own in zip(values, labels, strict=True)]
    weight_macs = np.array([macs.get(value, 0.0) for value in values])
    fixed = sum(product.macs for product in analysis.products) / batch
    came = parameters(original or analysis.model)
    is_stored = (np.arange(len(values)) < stored).astype(np.float64)
    return CostModel(np.array(rest), constant, slope, is_stored, weight_macs, fixed, full, came)


@dataclass(frozen=True, eq=False)
class RuntimeCost:
    """Multiply–adds as onnxruntime's blocked CPU kernels do them, for widths (…, groups).

    Output channels are computed a block at a time, and input channels too from one block on (docs/decisions).
    `inner`, `outer` (L, groups + 1) count channels of each convolution, the constant last; `scale` (L,) multiply–adds
    of one pair of channels.
    """

    inner: Float
    outer: Float
    scale: Float
    block: int

    def __call__(self, widths: npt.NDArray[np.generic]) -> Float:
        """The padded multiply–adds of one sample."""
        ones = np.ones((*widths.shape[:-1], 1))
        counts = np.concatenate([widths, ones], axis=-1)
        inner, outer = counts @ self.inner.T, counts @ self.outer.T
        wide = np.where(inner < self.block, inner, self._padded(inner))
        return np.asarray((wide * self._padded(outer)) @ self.scale)

    def _padded(self, channels: Float) -> Float:
        return np.ceil(channels / self.block - 1e-9) * self.block


def runtime_cost(analysis: Analysis, block: int) -> RuntimeCost:
    """The padded cost of the plain convolutions; others (dense, grouped) are left out."""
    owner = _owners(analysis)
    full = np.array([group.width for group in analysis.groups], np.int64)
    plain = [x for x in analysis.linears if x.kind in ("conv", "conv_transpose") and x.groups == 1]
    inner, outer, scale = [], [], []
    for linear in plain:
        channels = analysis.trace.shape(linear.x)[1]
        taps = linear.features.shape[1] // max(channels, 1)
        inner.append(_row(Label((0,), linear.features[0, ::taps]), owner, full))
        outer.append(_row(Label((0,), linear.outputs[0]), owner, full))
        scale.append(linear.macs * taps / max(analysis.trace.batch, 1))
    shape = (len(plain), full.size + 1)
    return RuntimeCost(np.reshape(inner, shape), np.reshape(outer, shape), np.array(scale), block)


def _row(label: Label, owner: npt.NDArray[np.int64], full: Widths) -> Float:
    constant, slope = _form(label, owner, full)
    return np.append(slope, constant)


def _owners(analysis: Analysis) -> npt.NDArray[np.int64]:
    """The index of the group that each unit is in."""
    owner = np.full(analysis.units + 1, WHOLE)
    for index, group in enumerate(analysis.groups):
        owner[group.units] = index
    return owner


def _unlabelled(shape: tuple[int, ...], labels: dict[tuple[int, ...], Label]) -> float:
    labelled = {axes[-1] for axes in labels}
    return float(np.prod([d for axis, d in enumerate(shape) if axis not in labelled]))


def _form(label: Label, owner: npt.NDArray[np.int64], full: Widths) -> tuple[float, Float]:
    """Positions along a label's last axis: how many stay whole, and how many each unit of a group has there.

    A label over two axes (grouped convolutions) has rows that keep equally many: take their mean.
    """
    owners = owner[label.atoms.reshape(-1)]
    scale = 1 / label.atoms.shape[0] if label.atoms.ndim > 1 else 1.0
    per_group = np.bincount(owners[owners != WHOLE], minlength=full.size)[: full.size] / np.maximum(full, 1)
    return float(np.sum(owners == WHOLE)) * scale, per_group * scale
