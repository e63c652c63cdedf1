"""NISP: the importance of the final responses, propagated back through the whole graph (Yu et al. 2018).

One sweep over all nodes, back to front. Where it first meets a layer that makes a group's channels, these are ranked,
and those that would go hand nothing on, there and at all other layers that make them.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxprune.choose import uniform_widths
from onnxprune.config import Config
from onnxprune.criteria.problem import Options, Problem
from onnxprune.criteria.scored import select
from onnxprune.dependency import Analysis, Group
from onnxprune.final_responses import final_scores, named, standing_last
from onnxprune.flow import Flow, Score
from onnxprune.graph import bodies
from onnxprune.grouping import Mask
from onnxprune.labels import Atoms
from onnxprune.native import F64
from onnxprune.op_rules.facts import Linear
from onnxprune.prepare import Data, Prepared
from onnxprune.progress import Tick
from onnxprune.widths import runtime_block

LARGE = 100
"""Scores beyond 2 to this power, or below its inverse, are brought back to 1, all of them by the same factor."""


def nisp(prepared: Prepared, data: Data, config: Config, tick: Tick) -> Mapping[str, F64]:
    """(width,) what the final responses owe to each unit, by group name; groups they do not depend on are left out.

    Raises BadInput where `--frl` names no node, or none that can be collected.
    """
    analysis, groups = prepared.analysis, prepared.groups
    flow = Flow(analysis, config.open)
    last = (
        named(analysis, prepared.first.original, flow, config.frl)
        if config.frl is not None
        else standing_last(analysis, flow)
    )
    if not groups:
        return {}
    final = final_scores(analysis, flow, data.source, last)
    tick()
    align = runtime_block() if config.align == "auto" else config.align
    widths = uniform_widths(analysis, groups, prepared.costs, data.source.synthetic, config, align)
    return propagate(analysis, flow, final, groups, widths.tolist())


def propagate(
    analysis: Analysis, flow: Flow, final: Mapping[ir.Value, Score], groups: Sequence[Group], widths: Sequence[int]
) -> dict[str, F64]:
    """The scores of the groups' units, when so many of each stay, from those of the final responses."""
    sweep = _Sweep(analysis, flow, groups, widths)
    sweep.scores |= final
    sweep.through(analysis.model.graph)
    return {groups[i].name: score for i, score in sweep.found.items() if score.any()}


def _origins(analysis: Analysis, groups: Sequence[Group]) -> list[list[ir.Value]]:
    """For each group the values in which its channels are made; those where they lie first, if no layer makes them."""
    made = [list(dict.fromkeys(x.y for x in group.writers if not _passes_on(x))) for group in groups]
    first = np.full(analysis.units + 1, -1)
    for number in range(len(analysis.slots) - 1, -1, -1) if not all(made) else ():
        if analysis.slots[number].reader is None:
            first[analysis.slots[number].label.atoms] = number
    lie = [np.unique(first[group.units]) for group in groups]
    return [
        own or [analysis.slots[n].value for n in here[here >= 0].tolist()] for own, here in zip(made, lie, strict=True)
    ]


def _passes_on(linear: Linear) -> bool:
    """Whether a layer's outputs are what it reads: each channel by itself, or those of the step before."""
    return linear.x is linear.y or bool(np.all(linear.features[:, :1] == linear.outputs))


class _Sweep:
    """A pass from the last node to the first. `found` has the scores of each group that was met."""

    def __init__(self, analysis: Analysis, flow: Flow, groups: Sequence[Group], widths: Sequence[int]) -> None:
        self._analysis, self._flow, self._groups, self._widths = analysis, flow, groups, widths
        self._made: dict[ir.Value, list[int]] = defaultdict(list)
        for i, values in enumerate(_origins(analysis, groups)):
            for value in values:
                self._made[value].append(i)
        self._units: dict[ir.Value, list[Atoms]] = defaultdict(list)
        for slot in analysis.slots:
            if slot.reader is None and slot.value in self._made:
                self._units[slot.value].append(slot.label.atoms)
        self._gone = np.zeros(analysis.units + 1, np.bool_)
        self.scores: dict[ir.Value, Score] = {}
        self.found: dict[int, F64] = {}

    def through(self, graph: ir.Graph) -> None:
        """Take what the nodes' outputs count back to their inputs, bodies after the nodes that hold them."""
        for node in reversed(graph):
            for value in node.outputs:
                if value in self.scores and value in self._made:
                    self._arrive(value)
            for value, score in self._flow.back(node, self.scores).items():
                self.scores[value] = self.scores[value].plus(score) if value in self.scores else score
            for value in node.outputs:
                self.scores.pop(value, None)
            for body in bodies(node):
                self.through(body)
            self._level()

    def _arrive(self, value: ir.Value) -> None:
        """Rank the groups that are made in a value and were not met before; what goes hands nothing on."""
        for i in self._made[value]:
            if i not in self.found:
                self.found[i] = self._scores_of(self._groups[i], value)
                self._gone[self._groups[i].units] |= self._leaving(i)
        parts = [
            np.where(self._gone[units], 0.0, part)
            for units, part in zip(self._units[value], self.scores[value].parts, strict=True)
        ]
        self.scores[value] = Score(tuple(parts), min(float(part.sum()) for part in parts))

    def _scores_of(self, group: Group, value: ir.Value) -> F64:
        position, total = group.positions(self._analysis.units), np.zeros(group.width)
        for units, part in zip(self._units[value], self.scores[value].parts, strict=True):
            mine = position[units] >= 0
            np.add.at(total, position[units][mine], part[mine])
        return total

    def _leaving(self, i: int) -> Mask:
        """Which of a group's units go at its width."""
        group = self._groups[i]
        problem = Problem(group.name, group.width, (), (), group.rows, importance=self.found[i])
        stays = np.zeros(group.width, np.bool_)
        stays[select(problem, Options()).keep(self._widths[i])] = True
        return np.asarray(~stays[group.member])

    def _level(self) -> None:
        """Products of weights overflow: bring all scores back, by one factor, so that branches stay comparable."""
        peak = max((score.whole for score in self.scores.values()), default=0.0)
        if peak > 0 and abs(power := int(np.frexp(peak)[1])) > LARGE:
            self.scores = {value: score.times(2.0**-power) for value, score in self.scores.items()}
