"""Groups and statistics to problems, problems to selections, selections to error-against-width curves."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from threading import Lock
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from onnxprune.calibration.collect import Collected, LayerStatistics
from onnxprune.calibration.statistics import Moments
from onnxprune.criteria import Criterion, lookup
from onnxprune.criteria.curve import error_curve
from onnxprune.criteria.problem import Options, Problem, Reader, Selection, Writer
from onnxprune.dependency import Analysis
from onnxprune.graph import Array
from onnxprune.grouping import Group
from onnxprune.native import F64, Real
from onnxprune.op_rules.facts import Linear
from onnxprune.parallel import each
from onnxprune.serialise import BIG, release
from onnxprune.weights import to_matrix, weight_of

Tick = Callable[[], None]
LEAST_SQUARE = 1e-6
"""Of the largest: a unit whose weights are all zeros still has its bias."""


class HeldOut:
    """The held-out moments of one block of a layer, made when first asked for: many criteria do without.

    Groups that share the layer share the object, and ask for it from several threads.
    """

    def __init__(self, make: Callable[[], Moments]) -> None:
        self._make = make
        self._made: Moments | None = None
        self._making = Lock()

    def moments(self) -> Moments:
        """The same object each time."""
        with self._making:
            if self._made is None:
                self._made = self._make()
            return self._made


@dataclass(frozen=True, eq=False)
class Judge:
    """One reader, its held-out rows, and which block of its layer it is."""

    reader: Reader
    held: HeldOut
    block: int


@dataclass(frozen=True, eq=False)
class Scored:
    """A group, the problem that was put to the criterion, what it selected, and the group's measured readers."""

    group: Group
    problem: Problem
    selection: Selection
    judges: tuple[Judge, ...]

    def errors(self, widths: Sequence[int]) -> F64:
        """The readers' held-out errors after a refit on so many units, over their energies, summed."""
        held = {id(judge.reader): judge.held.moments() for judge in self.judges}
        return error_curve(self.problem, [held.get(id(r)) for r in self.problem.readers], self.selection, widths)


def score(
    analysis: Analysis,
    collected: Collected | None,
    criterion: Criterion,
    options: Options,
    seed: int,
    groups: Sequence[Group],
    tick: Tick = lambda: None,
    importance: Mapping[str, F64] = MappingProxyType({}),
) -> list[Scored]:
    """Let the criterion rank the units of each group; `importance` has the scores of those scored beforehand."""
    moments = _Moments(analysis.model, collected.statistics if collected is not None else {}, groups)

    def rank(numbered: tuple[int, Group]) -> Scored:
        number, group = numbered
        readers = [(linear, block) for linear in group.readers for block in range(linear.groups)]
        made = [(*moments.reader(group, linear, block, analysis.units), block) for linear, block in readers]
        reading = [found for found in made if np.any(found[0].channel >= 0)]
        writers = tuple(_writer(analysis.model, group, linear, analysis.units) for linear in group.writers)
        estimated = _estimated(writers, group.width)
        reading = [(_guessed(reader, estimated), held, block) for reader, held, block in reading]
        own = (
            *(reader for reader, _, _ in reading),
            *_looped(analysis.model, group, reading, analysis.units, estimated),
        )
        given = importance.get(group.name)
        problem = Problem(group.name, group.width, own, writers, group.rows, seed + number, given)
        judges = tuple(Judge(reader, held, block) for reader, held, block in reading if held is not None)
        blind = criterion.needs_data and not own  # in a branch or a loop nothing is seen, nor counts as a reader
        selection = (lookup("magnitude") if blind else criterion).select(problem, options)
        for linear in (*group.readers, *group.writers):
            release(linear.weight.const_value)
        tick()
        return Scored(group, replace(problem, writers=()), selection, judges)

    return each(rank, enumerate(groups), lambda numbered: sum(_cubed(linear) for linear in numbered[1].readers))


def _cubed(linear: Linear) -> float:
    """What a matrix of a layer's features costs to invert."""
    return linear.groups * float(linear.features.shape[1]) ** 3


class _Moments:
    """Centred moments of the layers that read these groups, made once each."""

    def __init__(self, model: ir.Model, statistics: Mapping[str, LayerStatistics], groups: Sequence[Group]) -> None:
        self._model, self._statistics = model, statistics
        linears = {linear.node.name or "": linear for group in groups for linear in group.readers}
        narrow = [linear for name, linear in linears.items() if name in statistics and statistics[name].solve]
        blocks = [(linear, block) for linear in narrow for block in range(linear.groups)]

        def make(one: tuple[Linear, int]) -> tuple[Moments, HeldOut]:
            return _moments(model, statistics[one[0].node.name or ""], *one)

        made = each(make, blocks, lambda one: _cubed(one[0]))
        self._made = {(linear.node.name or "", block): pair for (linear, block), pair in zip(blocks, made, strict=True)}

    def reader(self, group: Group, linear: Linear, block: int, units: int) -> tuple[Reader, HeldOut | None]:
        """One block of a layer as the criteria see it, and its held-out moments."""
        name = linear.node.name or ""
        weight = _block(self._model, linear, block)
        channel = group.positions(units)[linear.features[block]]
        found = self._statistics.get(name)
        if found is None:
            return Reader(name, weight, None, channel), None
        if not found.solve:
            return Reader(name, weight, None, channel, found.variance.variance()[block]), None
        solve, held = self._made[name, block]
        return Reader(name, weight, solve, channel), held


def _estimated(writers: Sequence[Writer], width: int) -> F64:
    """(width,) how much units vary of which nothing was seen, as in a branch: as what writes them is large."""
    squares = np.zeros(width)
    for writer in writers:
        rows = writer.weight.reshape(width, -1).astype(np.float64)
        squares += np.einsum("cf,cf->c", rows, rows)
    return np.maximum(squares, LEAST_SQUARE * squares.max(initial=0.0)) if squares.any() else np.ones(width)


def _guessed(reader: Reader, estimated: F64) -> Reader:
    """A reader with these variances where none were measured."""
    if reader.moments is not None or reader.variance is not None:
        return reader
    return replace(reader, variance=np.where(reader.channel >= 0, estimated[reader.channel], estimated.mean()))


def _looped(
    model: ir.Model, group: Group, reading: Sequence[tuple[Reader, HeldOut | None, int]], units: int, estimated: F64
) -> Iterator[Reader]:
    """What units read of each other a step later: not solved for, but their variances are known from other readers."""
    position = group.positions(units)
    seen, times = np.zeros(group.width), np.zeros(group.width)
    for reader, _, _ in reading:
        mine = reader.channel >= 0
        np.add.at(seen, reader.channel[mine], reader.variances()[mine])
        np.add.at(times, reader.channel[mine], 1)
    variance = np.where(times > 0, seen / np.maximum(times, 1), 1.0 if times.any() else estimated)
    for linear in group.loops:
        weight = to_matrix(linear, weight_of(model, linear)).astype(np.float64)
        for block, features in zip(weight, position[linear.features], strict=True):
            yield Reader(linear.weight.name or "", block, None, features, variance[features])


def _moments(model: ir.Model, statistics: LayerStatistics, linear: Linear, block: int) -> tuple[Moments, HeldOut]:
    """The moments to solve on and to judge on; each stands in for the other where that saw no row."""
    weight = _block(model, linear, block)
    solve, held = statistics.solve[block], statistics.held[block]
    if not (solve.count and held.count):
        only = (solve if solve.count else held).moments().with_linear_targets(weight)
        return only, HeldOut(lambda: only)
    return solve.moments().with_linear_targets(weight), HeldOut(lambda: held.moments().with_linear_targets(weight))


def _block(model: ir.Model, linear: Linear, block: int) -> Real:
    """The weight (n, F) of one block, in double precision; where that would take much memory, the constant itself."""
    matrix: Real = to_matrix(linear, weight_of(model, linear))[block]
    return matrix if _stays(matrix) else matrix.astype(np.float64)


def _stays(matrix: Array) -> bool:
    return matrix.nbytes >= BIG and matrix.dtype in (np.float32, np.float64)


def _writer(model: ir.Model, group: Group, linear: Linear, units: int) -> Writer:
    """The rows of a weight that make the group's channels, gathered by block."""
    matrix = to_matrix(linear, weight_of(model, linear))
    rows = matrix.reshape(-1, matrix.shape[-1])
    block = group.positions(units)[linear.outputs.reshape(-1)]
    order = np.argsort(block, kind="stable")
    bounds = np.searchsorted(block[order], np.arange(group.width + 1))
    most = int(np.diff(bounds).max(initial=0))
    gathered = np.zeros((group.width, most, rows.shape[1]), rows.dtype if _stays(rows) else np.float64)
    for position, (start, end) in enumerate(pairwise(bounds)):
        gathered[position, : end - start] = rows[order[start:end]]
    return Writer(linear.node.name or "", gathered.reshape(group.width, -1))
