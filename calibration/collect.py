"""Sweep 1: run the original network once and keep sums of what its layers read, and rows of what they write."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxprune.calibration.rows import Rows, read, written
from onnxprune.calibration.sampling import Sampling, held_out
from onnxprune.calibration.source import Source
from onnxprune.calibration.statistics import Tally
from onnxprune.calibration.tape import Tape
from onnxprune.constants import constant_array
from onnxprune.graph import Array
from onnxprune.layers import Layer
from onnxprune.parallel import ahead, each, share
from onnxprune.runtime import open_session, run
from onnxprune.serialise import BIG, release_all
from onnxprune.weights import to_matrix, to_vector

if TYPE_CHECKING:
    import onnxruntime as ort

Tick = Callable[[], None]
Part = tuple["ort.InferenceSession | None", dict[str, Array], list[Layer]]


@dataclass(eq=False)
class LayerStatistics:
    """Sums of one layer's inputs, one entry a group of the layer: to solve on and to judge on.

    Layers too wide for them have empty lists and the `variance` of each input instead.
    """

    solve: list[Tally]
    held: list[Tally]
    variance: "Variance"


@dataclass(eq=False)
class Variance:
    """First and second moments of each feature, (groups, F), for layers too wide for more."""

    count: int = 0
    total: Array = field(default_factory=lambda: np.zeros(1))
    squares: Array = field(default_factory=lambda: np.zeros(1))

    def update(self, rows: Rows) -> None:
        """Add rows (groups, k, F)."""
        self.count += rows.shape[1]
        self.total = self.total + rows.sum(axis=1, dtype=np.float64)
        self.squares = self.squares + np.einsum("gkf,gkf->gf", rows, rows, dtype=np.float64)

    def variance(self) -> Array:
        """(groups, F)."""
        return np.maximum(self.squares / self.count - (self.total / self.count) ** 2, 0.0)


@dataclass(frozen=True, eq=False)
class Seen:
    """The rows (groups, k, F) of the input of `layer` in batch number `batch`."""

    layer: Layer
    batch: int
    rows: Rows


@dataclass(frozen=True, eq=False)
class Collected:
    """What sweep 1 leaves: statistics and target rows (k, outputs) of each batch, by layer name."""

    statistics: Mapping[str, LayerStatistics]
    targets: Mapping[str, Tape]

    @property
    def disk_bytes(self) -> int:
        """Bytes of temporary files in use."""
        return sum(tape.bytes for tape in self.targets.values())


def collect(
    model: ir.Model,
    layers: Sequence[Layer],
    measured: frozenset[str],
    source: Source,
    sampling: Sampling,
    tick: Tick = lambda: None,
) -> Collected:
    """Sums for the layers named in `measured`, target rows for all of `layers`; memory does not grow with samples.

    A target is the layer's output, its bias added, and its partner's too where it has one.
    """
    statistics = {layer.name: _empty(layer, sampling.allowance.widest) for layer in layers if layer.name in measured}
    targets = {layer.name: Tape() for layer in layers}
    weights = {layer.name: _constants(model, layer) for layer in layers}

    def seen(numbered: tuple[int, Part]) -> list[Seen]:
        number, (session, feeds, active) = numbered
        values = {**feeds, **(run(session, feeds) if session is not None else {})}
        rows = [_rows(layer, values, weights[layer.name], targets[layer.name], sampling, number) for layer in active]
        return [Seen(x, number, own) for x, own in zip(active, rows, strict=True) if x.name in statistics]

    def add(one: Seen) -> None:
        _add(statistics[one.layer.name], one.rows, one.batch, sampling.step_to_choose(one.layer.linear))

    for batch in ahead(seen, enumerate(_parts(model, layers, source, sampling))):
        each(add, batch)
        tick()
    for one in statistics.values():
        for tally in (*one.solve, *one.held):
            tally.settle()
    release_all(model)
    return Collected(statistics, targets)


def _constants(model: ir.Model, layer: Layer) -> tuple[Rows, Rows]:
    """The weight (groups, F, n) in fp32, as the rows are multiplied by it, and the bias (groups · n,)."""
    matrix = to_matrix(layer.linear, constant_array(model, layer.linear.weight))
    bias = np.zeros(1) if layer.bias is None else to_vector(layer.linear, constant_array(model, layer.bias))
    weight = matrix.transpose(0, 2, 1)
    if weight.nbytes < BIG or weight.dtype != np.float32:  # a large one is not laid out anew
        weight = np.ascontiguousarray(weight, np.float32)
    return weight, bias.astype(np.float32)


def _rows(
    layer: Layer,
    values: Mapping[str, Array],
    constants: tuple[Rows, Rows],
    targets: Tape,
    sampling: Sampling,
    number: int,
) -> Rows:
    """The layer's rows of batch `number`, copied so that the activations can go; what they should give is recorded."""
    x = values[layer.linear.x.name or ""]
    where = sampling.positions(layer.linear, x.shape, number)
    rows = read(layer.linear, x, where)
    target = _target(rows, *constants)
    if layer.partner is not None:
        target += written(layer.linear, values[layer.partner.name or ""], where)
    targets.put(number, target)
    return rows


def _parts(model: ir.Model, layers: Sequence[Layer], source: Source, sampling: Sampling) -> Iterator[Part]:
    """Each batch with the layers that want rows of it and the session that computes what those read.

    A new one is opened, which takes as long as a few images, when it has only half as much to hand out.
    """
    inputs = {value.name for value in model.graph.inputs}
    session, asked = None, 0
    for number, feeds in enumerate(source.batches()):
        sampling.note(number, feeds)
        active = [layer for layer in layers if number < sampling.used(layer.linear)]
        if not active:
            return
        values = (value for layer in active for value in (layer.linear.x, layer.partner) if value is not None)
        wanted = {value.name or "" for value in values} - inputs
        if number == 0 or 2 * len(wanted) <= asked:
            session = open_session(model, outputs=sorted(wanted), threads=share()) if wanted else None
            asked = len(wanted)
        yield session, feeds, active


def _empty(layer: Layer, widest: int) -> LayerStatistics:
    groups, features = layer.linear.features.shape
    narrow = features <= widest
    make = [Tally(features) for _ in range(2 * groups * narrow)]
    return LayerStatistics(make[::2], make[1::2], Variance())


def _add(statistics: LayerStatistics, rows: Rows, batch: int, step: int) -> None:
    """Add every `step`-th row of those that solve and of those that judge."""
    held = held_out(rows.shape[1], batch)
    if not statistics.solve:
        statistics.variance.update(rows)
    for solve, judge, block in zip(statistics.solve, statistics.held, rows, strict=False):
        judge.add(block[held][::step])
        solve.add(block[: held.start : step])


def _target(rows: Rows, weight: Rows, bias: Rows) -> Rows:
    """Y = X Wᵀ + b from the rows themselves: (k, groups · n)."""
    blocks = np.matmul(rows, weight)  # (groups, k, n)
    outputs = np.moveaxis(blocks, 0, 1).reshape(rows.shape[1], -1)
    return np.asarray(outputs + bias, np.float32)
