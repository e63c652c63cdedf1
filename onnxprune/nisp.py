"""NISP: the importance of the final responses, propagated back through the whole graph (Yu et al. 2018).

One sweep over all nodes, back to front. Where it comes to the layer that makes a group's channels, all their readers
have been met: the channels are ranked, and those that would go hand nothing on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxprune.choose import uniform_widths
from onnxprune.config import Config
from onnxprune.costs import cost_model
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
    last = named(analysis, prepared.original, flow, config.frl) if config.frl else standing_last(analysis, flow)
    final = final_scores(analysis, flow, data.source, last)
    tick()
    align = runtime_block() if config.align == "auto" else config.align
    costs = cost_model(analysis, prepared.original)
    widths = uniform_widths(analysis, groups, costs, data.source.synthetic, config, align)
    return propagate(analysis, flow, final, groups, widths.tolist())


def propagate(
    analysis: Analysis, flow: Flow, final: Mapping[ir.Value, Score], groups: Sequence[Group], widths: Sequence[int]
) -> dict[str, F64]:
    """The scores of the groups' units, when so many of each stay, from those of the final responses.

    A group that several layers write is chosen before the sweep, by a sweep of its own in which it is whole: its first
    writer comes last, when what it would have handed to the others has been handed on.
    """
    origins = _origins(analysis, groups)
    gone = np.zeros(analysis.units + 1, np.bool_)
    shared = [i for i, values in enumerate(origins) if len(values) != 1]
    if shared:
        before = _Sweep(analysis, flow, groups, origins, widths, gone.copy())
        before.run(final)
        for i in shared:
            before.choose(i)
            gone[groups[i].units] |= before.gone[groups[i].units]
    sweep = _Sweep(analysis, flow, groups, origins, widths, gone)
    sweep.run(final)
    return {groups[i].name: score for i, (score, _) in sweep.found.items() if score.any()}


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


@dataclass(eq=False)
class _Sweep:
    """A backward pass. `found` has what was met of each group, as a number times 2 to a power; `gone` what is cut."""

    analysis: Analysis
    flow: Flow
    groups: Sequence[Group]
    origins: Sequence[Sequence[ir.Value]]
    widths: Sequence[int]
    gone: Mask
    scores: dict[ir.Value, Score] = field(default_factory=dict)
    exponent: int = 0
    found: dict[int, tuple[F64, int]] = field(default_factory=dict)

    def run(self, final: Mapping[ir.Value, Score]) -> None:
        """Go through all nodes from the last to the first."""
        self.units: dict[ir.Value, list[Atoms]] = {}
        for slot in self.analysis.slots:
            if slot.reader is None:
                self.units.setdefault(slot.value, []).append(slot.label.atoms)
        self.here: dict[ir.Value, list[int]] = {}
        for i, values in enumerate(self.origins):
            for value in values:
                self.here.setdefault(value, []).append(i)
        self.scores |= final
        self._graph(self.analysis.model.graph)

    def _graph(self, graph: ir.Graph) -> None:
        for node in reversed(graph):
            for value in node.outputs:
                if value in self.scores:
                    self._arrive(value)
            for value, score in self.flow.back(node, self.scores).items():
                self.scores[value] = self.scores[value].plus(score) if value in self.scores else score
            for value in node.outputs:
                self.scores.pop(value, None)
            for body in bodies(node):
                self._graph(body)
            self._level()

    def _arrive(self, value: ir.Value) -> None:
        """Note what a value counts for the groups that are made in it, choose, and drop what goes."""
        mine = self.here.get(value, ())
        for i in mine:
            self._note(i, value)
            if len(self.origins[i]) == 1:
                self.choose(i)
        if mine:
            score = self.scores[value]
            parts = [np.where(self.gone[u], 0.0, p) for u, p in zip(self.units[value], score.parts, strict=True)]
            self.scores[value] = Score(tuple(parts), min(float(part.sum()) for part in parts))

    def _note(self, i: int, value: ir.Value) -> None:
        group = self.groups[i]
        position = group.positions(self.analysis.units)
        total = np.zeros(group.width)
        for units, part in zip(self.units[value], self.scores[value].parts, strict=True):
            mine = position[units] >= 0
            np.add.at(total, position[units][mine], part[mine])
        before, exponent = self.found.get(i, (np.zeros(group.width), self.exponent))
        largest = max(exponent, self.exponent)
        scaled = np.ldexp(before, exponent - largest) + np.ldexp(total, self.exponent - largest)
        self.found[i] = scaled, largest

    def choose(self, i: int) -> None:
        """Mark what goes of a group at its width; nothing where it was not met."""
        group = self.groups[i]
        if i in self.found:
            problem = Problem(group.name, group.width, (), (), group.rows, importance=self.found[i][0])
            stays = np.zeros(group.width, np.bool_)
            stays[select(problem, Options()).keep(self.widths[i])] = True
            self.gone[group.units] |= ~stays[group.member]

    def _level(self) -> None:
        """Products of weights overflow: bring all scores back, by one factor, so that branches stay comparable."""
        peak = max((score.whole for score in self.scores.values()), default=0.0)
        power = int(np.frexp(peak)[1]) if peak > 0 else 0
        if abs(power) > LARGE:
            self.scores = {value: score.times(2.0**-power) for value, score in self.scores.items()}
            self.exponent += power
