"""The schedule of cuts and fine-tunes: in one go, in rounds, or group by group; together they are one removal."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from onnxprune.choose import Chosen, budget_of, uniform_widths
from onnxprune.composing import carried, prepare_again
from onnxprune.config import BUDGETS, Config
from onnxprune.costs import parameters
from onnxprune.course import Course, pruned
from onnxprune.cutting import Cut, cut, widths
from onnxprune.dependency import Group, Keep
from onnxprune.errors import BudgetNotMet
from onnxprune.global_error import reconstruct
from onnxprune.graph import every_node
from onnxprune.op_rules.facts import Linear
from onnxprune.passes.factorize_low_rank import Written, factorize_low_rank, multiplied
from onnxprune.prepare import Data, Prepared
from onnxprune.progress import Stages
from onnxprune.report import JointReport, RoundReport, Tuned
from onnxprune.sharing import ALONE, Alone
from onnxprune.training.samples import Samples
from onnxprune.tuning import tune
from onnxprune.widths import runtime_block

SHORT, SHORTER = 1.0, 0.25
"""Epochs between cuts, unless told otherwise: in rounds, and group by group."""


@dataclass(frozen=True, eq=False)
class Step:
    """A cut down to the budget of `config`, and the epochs behind it; of one `group` alone, where that is named.

    A cut that is all there is has no name. Where widths were chosen for all groups beforehand, `chosen` holds them, and
    `refused` why some stay.
    """

    name: str
    config: Config
    epochs: float | None
    group: str | None = None
    chosen: Chosen | None = None
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Pruned:
    """What all cuts came to: `keep`, `wide` and the names in `model` are the original's, `last` is the last cut.

    Where layers were `written` as products, `whole` is the model before that.
    """

    model: ir.Model
    keep: Keep
    chosen: Chosen
    last: Cut
    wide: tuple[Linear, ...]
    refused: Mapping[str, str]
    disk_bytes: int
    notes: tuple[str, ...]
    tuned: Tuned | None = None
    rounds: tuple[RoundReport, ...] = ()
    whole: ir.Model | None = None
    written: tuple[Written, ...] = ()
    joint: JointReport | None = None

    def solved(self, model: ir.Model) -> ir.Model:
        """The numbers of a model in the layers of the original, products multiplied out."""
        return model if self.whole is None else multiplied(self.whole, model, self.written)


def prune(
    prepared: Prepared,
    data: Data,
    samples: Samples | None,
    course: Course,
    config: Config,
    stages: Stages,
    shared: Alone,
) -> Pruned:
    """Cut and fine-tune as the options say.

    Raises BadInput where nothing can go, and BudgetNotMet where not enough can: as a rule before the first cut.
    """
    steps = _steps(prepared, data, config, stages, shared)
    if config.rounds > 1 or config.finetune_per_layer:
        course.begin()
    done: Pruned | None = None
    for number, step in enumerate(steps, 1):
        with stages.part(step.name):
            done = _as_products(_cut(prepared, done, step, data, stages, shared))
            if done.written and step.config.fc == "ger":
                model, joint, notes = reconstruct(prepared, done.model, done.written, data, step.config, stages)
                done = replace(done, model=model, joint=joint, notes=(*done.notes, *notes))
            if samples is not None and step.epochs is not None:
                at = course if number == len(steps) else course.before(number)
                task = pruned(prepared, done.model, done.keep, done.written, samples, at, step.config)
                model, tuned = tune(task, step.epochs, step.config, stages)
                done = replace(done, model=model, tuned=tuned)
            if step.name:
                done = replace(done, rounds=(*done.rounds, _told(prepared, done, step)))
    assert done is not None
    return done


def _cut(prepared: Prepared, done: Pruned | None, step: Step, data: Data, stages: Stages, shared: Alone) -> Pruned:
    if done is None:
        one = cut(_alone(prepared, step), data, step.config, stages, shared)
        chosen, refused = step.chosen or one.chosen, {**step.refused, **one.refused}
        return Pruned(one.model, one.keep, chosen, one, one.wide, refused, one.disk_bytes, one.notes)
    with stages.stage("analyse"):
        again, where = prepare_again(prepared, done.keep, done.model, data, step.config, done.refused)
    one = cut(_alone(again, step), data, step.config, stages, ALONE)
    keep = where.composed(done.keep, one.keep)
    return replace(
        done,
        model=carried(prepared.analysis, keep, one.model),
        keep=keep,
        chosen=step.chosen or one.chosen,
        last=one,
        refused={**done.refused, **one.refused},
        disk_bytes=max(done.disk_bytes, one.disk_bytes),
        notes=tuple(dict.fromkeys((*done.notes, *one.notes))),
    )


def _as_products(done: Pruned) -> Pruned:
    if not done.last.factors:
        return done
    factors = {name: (one.first, one.second) for name, one in done.last.factors.items()}
    model, written = factorize_low_rank(done.model, factors)
    return replace(done, model=model, whole=done.model, written=written)


def _alone(prepared: Prepared, step: Step) -> Prepared:
    """The model with the step's own group alone; with all of them where it has none."""
    if step.group is None:
        return prepared
    groups = tuple(group for group in prepared.groups if group.name == step.group)
    if not groups:
        raise BudgetNotMet(f"after the cuts before it, {step.group} cannot lose what it should: try --rounds instead")
    return replace(prepared, groups=groups)


def _told(prepared: Prepared, done: Pruned, step: Step) -> RoundReport:
    """How far the model is down, as shares of the original, and how its fine-tune went."""
    costs = prepared.costs
    kept = np.array([group.kept(done.keep).sum() for group in prepared.analysis.groups], np.int64)
    lost = {g.name: int(n) for g, n in zip(prepared.analysis.groups, kept, strict=True) if n < g.width}
    return RoundReport(
        name=step.name,
        group=step.group,
        kept=lost,
        macs=float(costs.macs(kept) / costs.macs(costs.full)),
        params=parameters(done.model) / costs.came,
        tuned=done.tuned,
    )


def _steps(prepared: Prepared, data: Data, config: Config, stages: Stages, shared: Alone) -> list[Step]:
    """What is done one after the other; the last step is the one with the long fine-tune."""
    synthetic, last = data.source.synthetic, Step("", config, config.finetune)
    if prepared.alone:
        return [last]
    if config.finetune_per_layer and (steps := _group_by_group(prepared, data, config, stages, shared)):
        return steps
    if config.rounds == 1:
        return [last]
    if prepared.groups:  # whether the budget can be reached: better now than after the last fine-tune but one
        align = runtime_block() if config.align == "auto" else config.align
        uniform_widths(prepared.analysis, prepared.groups, prepared.costs, synthetic, config, align)
    before = [_round(config, synthetic, number) for number in range(1, config.rounds)]
    return [*before, replace(last, name=f"{config.rounds}/{config.rounds}")]


def _round(config: Config, synthetic: bool, number: int) -> Step:
    """A round that ends its part of the way down, counted in equal factors."""
    (kind, share), part = budget_of(config, synthetic), number / config.rounds
    goal: dict[str, object] = dict.fromkeys((*BUDGETS, "fc", "conv", "rank", "energy"))
    if kind != "ratios":
        goal[kind] = 1 - (1 - share) ** part if kind == "ratio" else share**part
    goal["ratios"] = {glob: 1 - (1 - rate) ** part for glob, rate in config.ratios.items()}
    name = f"{number}/{config.rounds}"
    return Step(name, _drawn_anew(config, goal, number), config.round_epochs or SHORT)


def _group_by_group(prepared: Prepared, data: Data, config: Config, stages: Stages, shared: Alone) -> list[Step]:
    """One step for each group that is to lose channels, front to back, at widths that are chosen now."""
    chosen, refused = widths(prepared, data, config, stages, shared)
    left = dict(zip(chosen.names, chosen.widths.tolist(), strict=True))
    groups = [group for group in _front_to_back(prepared) if left.get(group.name, group.width) < group.width]
    steps = []
    for number, group in enumerate(groups, 1):
        goal = {**dict.fromkeys(BUDGETS), "ratios": {group.name: 1 - left[group.name] / group.width}}
        name, last = f"{number}/{len(groups)}", number == len(groups)
        epochs = config.finetune if last else config.round_epochs or SHORTER
        steps.append(Step(name, _drawn_anew(config, goal, 0 if last else number), epochs, group.name, chosen, refused))
    return steps


def _front_to_back(prepared: Prepared) -> list[Group]:
    place = {node: number for number, node in enumerate(every_node(prepared.analysis.model))}
    return sorted(prepared.groups, key=lambda group: min((place[x.node] for x in group.writers), default=0))


def _drawn_anew(config: Config, goal: dict[str, object], number: int) -> Config:
    """The options of one step: with one seed each short fine-tune would see the same samples."""
    return config.model_copy(update={**goal, "seed": config.seed + number})
