"""Fisher's damage without gradients: every channel's gate is closed in turn, on onnxruntime alone."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import log_softmax

from onnxprune.calibration.window import batch_of, leading
from onnxprune.config import Config
from onnxprune.criteria.scored import Scores
from onnxprune.graph import Array
from onnxprune.native import F64
from onnxprune.passes.gates import add_gates, readings
from onnxprune.prepare import Data, Prepared
from onnxprune.progress import Tick
from onnxprune.runtime import open_session, run

if TYPE_CHECKING:
    import onnxruntime as ort

ALLOWED, FEWEST = 2e12, 8
"""All forward passes together may cost so many multiply–adds, on no fewer inputs than this."""
LEAST = 1e-12


def ablate(prepared: Prepared, data: Data, config: Config, tick: Tick) -> Scores:
    """For each channel KL(original ‖ ablated) of a classifier, else half the squared error over the variance."""
    groups = prepared.groups
    reads = readings(prepared.analysis, np.concatenate([group.units for group in groups]))
    gated = add_gates(prepared.analysis, reads)
    session = open_session(gated.model)
    sums, samples = {group.name: np.zeros(group.width) for group in groups}, 0
    for feeds in _some(prepared, data):
        gates = np.ones((1, prepared.analysis.units + 1), np.float32)
        wanted = _outputs(session, {**feeds, gated.name: gates})
        for group in groups:
            for block in range(group.width):
                closed = gates.copy()
                closed[0, group.units[group.member == block]] = 0
                sums[group.name][block] += difference(wanted, _outputs(session, {**feeds, gated.name: closed}))
        samples += batch_of(feeds, data.axes)
        tick()
    found = {name: damage / samples for name, damage in sums.items() if damage.any()}
    return Scores(found, (f"Damage is what {samples} inputs show when one channel at a time is masked.",))


def _some(prepared: Prepared, data: Data) -> Iterator[Mapping[str, Array]]:
    """As many inputs as the passes may cost; whole batches of a model whose batch is fixed."""
    costs = prepared.costs
    passes = sum(group.width for group in prepared.groups)
    left = max(FEWEST, int(ALLOWED / max(float(costs.macs(costs.full)) * passes, 1.0)))
    return leading(data.source, data.axes, left, data.fixed_batch)


def _outputs(session: "ort.InferenceSession", feeds: Mapping[str, Array]) -> list[Array]:
    """Copies of the outputs that are numbers: lent memory is written to again."""
    return [np.array(y) for y in run(session, feeds).values() if np.issubdtype(y.dtype, np.floating)]


def difference(wanted: list[Array], found: list[Array]) -> float:
    """Σ over samples of the divergence between two answers of a model."""
    if len(wanted) == 1 and wanted[0].ndim == 2 and wanted[0].shape[1] > 1:
        (p, q) = (_log_chances(scores) for scores in (wanted[0], found[0]))
        return float(np.sum(np.exp(p) * (p - q)))
    return sum(_squares(y, z) for y, z in zip(wanted, found, strict=True))


def _squares(wanted: Array, found: Array) -> float:
    exact = wanted.astype(np.float64)
    return float(np.sum((found - exact) ** 2)) / 2 / (float(np.var(exact)) or 1.0)


def _log_chances(scores: Array) -> F64:
    exact = scores.astype(np.float64)
    chances = bool(np.all(exact >= 0)) and np.allclose(exact.sum(1), 1, atol=1e-3)
    logits: F64 = log_softmax(np.log(np.maximum(exact, LEAST)) if chances else exact, axis=1)
    return logits
