"""Groups and statistics to problems, problems to selections, selections to error-against-width curves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxprune.calibration.collect import Collected, LayerStatistics
from onnxprune.calibration.statistics import F64, Moments
from onnxprune.criteria import Criterion
from onnxprune.criteria.curve import error_curve
from onnxprune.criteria.problem import Options, Problem, Reader, Selection, Writer
from onnxprune.dependency import Analysis
from onnxprune.graph import array_of
from onnxprune.grouping import Group
from onnxprune.op_rules.facts import Linear
from onnxprune.weights import to_matrix

Tick = Callable[[], None]


@dataclass(frozen=True, eq=False)
class Judge:
    """One reader with its held-out moments, and which block of its layer it is."""

    reader: Reader
    held: Moments
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
        held = {id(judge.reader): judge.held for judge in self.judges}
        return error_curve(self.problem, [held.get(id(r)) for r in self.problem.readers], self.selection, widths)


def score(
    analysis: Analysis,
    collected: Collected | None,
    criterion: Criterion,
    options: Options,
    seed: int,
    groups: Sequence[Group],
    tick: Tick = lambda: None,
) -> list[Scored]:
    """Let the criterion rank the units of each group."""
    statistics = collected.statistics if collected is not None else {}
    moments = _Moments(statistics)
    scored = []
    for number, group in enumerate(groups):
        readers = [(linear, block) for linear in group.readers for block in range(linear.groups)]
        made = [moments.reader(group, linear, block, analysis.units) for linear, block in readers]
        pairs = [(reader, held) for reader, held in made if np.any(reader.channel >= 0)]
        writers = tuple(_writer(group, linear) for linear in group.writers)
        problem = Problem(group.name, group.width, tuple(r for r, _ in pairs), writers, group.rows, seed + number)
        judges = tuple(
            Judge(reader, held, block)
            for (reader, held), (_, block) in zip(made, readers, strict=True)
            if held is not None and np.any(reader.channel >= 0)
        )
        scored.append(Scored(group, problem, criterion.select(problem, options), judges))
        tick()
    return scored


class _Moments:
    """Centred moments of the layers, made once each."""

    def __init__(self, statistics: Mapping[str, LayerStatistics]) -> None:
        self._statistics = statistics
        self._made: dict[tuple[str, int], tuple[Moments, Moments]] = {}

    def reader(self, group: Group, linear: Linear, block: int, units: int) -> tuple[Reader, Moments | None]:
        """One block of a layer as the criteria see it, and its held-out moments."""
        name = linear.node.name or ""
        weight = to_matrix(linear, array_of(linear.weight))[block].astype(np.float64)
        channel = _positions(group, units)[linear.features[block]]
        found = self._statistics.get(name)
        if found is None:
            return Reader(name, weight, None, channel), None
        if not found.solve:
            return Reader(name, weight, None, channel, found.variance.variance()[block]), None
        solve, held = self._centred(name, block, weight)
        return Reader(name, weight, solve, channel), held

    def _centred(self, name: str, block: int, weight: F64) -> tuple[Moments, Moments]:
        key = name, block
        if key not in self._made:
            found = self._statistics[name]
            held = found.held[block] if found.held[block].count else found.solve[block]
            solve = found.solve[block] if found.solve[block].count else held
            self._made[key] = (
                solve.centred().with_linear_targets(weight),
                held.centred().with_linear_targets(weight),
            )
        return self._made[key]


def _positions(group: Group, units: int) -> npt.NDArray[np.intp]:
    """The position in the group of each unit, −1 for units of other groups and for what stays whole."""
    position = np.full(units + 1, -1, np.intp)
    position[group.units] = np.arange(group.width)
    return position


def _writer(group: Group, linear: Linear) -> Writer:
    """The rows of a weight that make the group's channels, gathered by unit."""
    matrix = to_matrix(linear, array_of(linear.weight)).astype(np.float64)
    rows = matrix.reshape(-1, matrix.shape[-1])
    outputs = linear.outputs.reshape(-1)
    order = np.argsort(outputs, kind="stable")
    starts = np.searchsorted(outputs[order], group.units)
    ends = np.searchsorted(outputs[order], group.units, side="right")
    most = int((ends - starts).max(initial=0))
    gathered = np.zeros((group.width, most, rows.shape[1]))
    for position, (start, end) in enumerate(zip(starts, ends, strict=True)):
        gathered[position, : end - start] = rows[order[start:end]]
    return Writer(linear.node.name or "", gathered.reshape(group.width, -1))
