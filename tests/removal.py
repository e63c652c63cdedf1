"""Drive a small model through the analysis, draw removals that respect the rows, and compare with both oracles."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from dense_mask import masked_model, max_relative_difference, run
from topologies import feeds

from onnxprune.dependency import Analysis, Keep, analyse
from onnxprune.grouping import Group
from onnxprune.model_io import load
from onnxprune.passes.add_bias import add_bias
from onnxprune.passes.fold_batchnorm import fold_batchnorm
from onnxprune.passes.normalise import normalise
from onnxprune.passes.remove import remove
from onnxprune.passes.scatter import scatter
from onnxprune.trace import trace

CLOSE = 1e-5
"""The largest relative difference that rounding explains."""
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
Removed = dict[str, list[int]]


@dataclass(frozen=True, eq=False)
class Case:
    """An analysed model and inputs for it."""

    analysis: Analysis
    inputs: Mapping[str, np.ndarray]

    def group(self, name: str) -> Group:
        return next(group for group in self.analysis.groups if group.name == name)

    def widths(self) -> dict[str, int]:
        return {group.name: group.width for group in self.analysis.groups}

    def reasons(self) -> dict[str, str]:
        return {closed.name: closed.reason for closed in self.analysis.closed}


def analysed(model: onnx.ModelProto, folded: bool = False, batch: int = 2, opened: Collection[str] = ()) -> Case:
    """Normalise, trace and analyse; `folded`: as a run rewrites it, BatchNorm folded and every layer with a bias.

    `opened` is what `--open` names.
    """
    inputs = feeds(model, seed=1, batch=batch)
    normal = normalise(load(model).model)
    if folded:
        layers = [node.name or "" for node in normal.graph if node.op_type in LAYERS]
        normal = add_bias(fold_batchnorm(normal, layers), layers)
    return Case(analyse(normal, trace(normal, inputs), opened), inputs)


def some_of(group: Group, rng: np.random.Generator) -> list[int]:
    """Between one and all but one of the units of each row, as many from each."""
    rows = np.zeros(group.width, np.int64) if group.rows is None else group.rows
    count = int(rng.integers(1, max(2, np.bincount(rows).min())))
    return [int(i) for row in range(group.row_count) for i in rng.permutation(np.flatnonzero(rows == row))[:count]]


def removals(groups: tuple[Group, ...], seed: int) -> Iterator[Removed]:
    """One group at a time, then all together."""
    rng = np.random.default_rng(seed)
    drawn = {group.name: some_of(group, rng) for group in groups}
    if len(drawn) > 1:
        yield from ({name: positions} for name, positions in drawn.items())
    if drawn:
        yield drawn


def together(case: Case, drawn: Removed) -> Removed:
    """Those of the removals that leave something of each tensor, taken in turn.

    A whole head here and a column there may leave nothing of a slice of them.
    """
    kept: Removed = {}
    for name, positions in drawn.items():
        keep = case.analysis.keep_without(kept | {name: positions})
        if all(keep[slot.label.atoms].any() for slot in case.analysis.slots):
            kept[name] = positions
    return kept


def proto(model: ir.Model) -> onnx.ModelProto:
    return ir.to_proto(model)


def masks(analysis: Analysis, keep: Keep, any_type: bool = False) -> dict[str, np.ndarray]:
    """A 0/1 mask for every computed value that has labels; of those known to be whole numbers only if `any_type`."""
    found: dict[str, np.ndarray] = {}
    for slot in analysis.slots:
        whole = slot.value.dtype is not None and not slot.value.dtype.is_floating_point()
        if slot.reader is None and (any_type or not whole):
            rank = len(analysis.trace.shape(slot.value))
            dims = [1] * rank
            for axis, size in zip(slot.label.axes, slot.label.atoms.shape, strict=True):
                dims[axis] = size
            name = slot.value.name or ""
            found[name] = found.get(name, np.ones(1)) * keep[slot.label.atoms].reshape(dims)
    found |= dict(recurrent_masks(analysis.model, found))
    return {name: mask for name, mask in found.items() if not mask.all()}


def recurrent_masks(model: ir.Model, found: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """A layer reads its own last step, which no mask on its output hides: its recurrent weight has columns masked."""
    for node in model.graph:
        if node.op_type in ("LSTM", "GRU", "RNN") and node.outputs[0].name in found:
            weight, mask = node.inputs[2], found[node.outputs[0].name]  # (directions, rows, H); (1, directions, 1, H)
            assert weight is not None
            yield weight.name or "", mask[0] if mask.shape[1] == weight.const_value.shape[0] else mask[0, :, :]


def differences(case: Case, keep: Keep, inputs: Mapping[str, np.ndarray] | None = None) -> tuple[float, float]:
    """The slim model against the wide graph with its weights scattered back, and against the masked original."""
    inputs = inputs or case.inputs
    slim = remove(case.analysis, keep)
    wide, masked = (
        scatter(case.analysis, slim, keep),
        masked_model(proto(case.analysis.model), masks(case.analysis, keep)),
    )
    onnx.checker.check_model(proto(slim), full_check=True)
    found = run(proto(slim), inputs)
    return max_relative_difference(found, run(proto(wide), inputs)), max_relative_difference(found, run(masked, inputs))


def check_every_removal(case: Case, seed: int = 3) -> None:
    """Assert that one group at a time and all together leave what scattering and masking leave."""
    for removed in removals(case.analysis.groups, seed):
        assert max(differences(case, case.analysis.keep_without(removed))) < CLOSE, removed
