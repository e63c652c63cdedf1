"""From what a run did to its report."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.choose import CAREFUL, Chosen, budget_of
from onnxprune.config import BUDGETS, Config
from onnxprune.costs import parameters
from onnxprune.criteria import lookup
from onnxprune.dependency import Analysis
from onnxprune.grouping import Group
from onnxprune.measure import Measured
from onnxprune.model_io import Loaded
from onnxprune.op_rules.facts import Linear
from onnxprune.plan import Plan
from onnxprune.planning import reader_errors
from onnxprune.prepare import Data, Prepared
from onnxprune.ranks import planned, saved_macs
from onnxprune.rebuild import Rebuilt
from onnxprune.report import (
    Budget,
    Calibrated,
    ClosedReport,
    CodesReport,
    GroupReport,
    JointReport,
    LayerReport,
    ProductReport,
    Report,
    RoundReport,
    Totals,
    Tuned,
)
from onnxprune.serialise import tensor_bytes
from onnxprune.version import __version__
from onnxprune.widths import runtime_block


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the stages after the analysis came to."""

    model: ir.Model
    chosen: Chosen
    refused: Mapping[str, str]
    solved: Sequence[Rebuilt]
    proof: float
    measured: Measured
    seconds: Mapping[str, float]
    disk_bytes: int
    wide: Sequence[Linear] = ()
    tuned: Tuned | None = None
    rounds: tuple[RoundReport, ...] = ()
    notes: tuple[str, ...] = ()
    codes: tuple[CodesReport, ...] = ()
    joint: JointReport | None = None


def make_report(loaded: Loaded, config: Config, prepared: Prepared, data: Data, plan: Plan, outcome: Outcome) -> Report:
    """Gather the report. Totals: of the model as it came (before BatchNorm was folded), and at the widths after."""
    kept = {group.name: len(group.kept) for group in plan.groups}
    errors = {group.name: group.error for group in plan.groups} | reader_errors(prepared, outcome.solved)
    costs = prepared.costs
    widths = np.array([kept.get(group.name, group.width) for group in prepared.analysis.groups], np.int64)
    before = _totals(costs.whole("macs"), prepared.came)
    forms = planned(plan.products)
    after = _totals(float(costs.macs(widths)) - saved_macs(prepared.analysis, widths, forms), outcome.model)
    groups = tuple(
        GroupReport(
            name=g.name,
            width=g.width,
            kept=kept.get(g.name, g.width),
            method=_method(g, config, outcome.wide) if g.name in kept else "",
            error=errors.get(g.name),
            reason=outcome.refused.get(g.name, "" if g.name in kept else _whole(g, prepared.analysis)),
        )
        for g in prepared.groups
    )
    return Report(
        onnxprune=__version__,
        model=str(loaded.path or loaded.model.graph.name or "model"),
        config=config,
        budget=_budget(config, data, groups, before, after),
        allocation=_allocation(outcome.chosen, config),
        align=runtime_block() if config.align == "auto" else config.align,
        calibration=_calibrated(data, outcome),
        groups=groups,
        closed=tuple(ClosedReport(name=c.name, width=c.width, reason=c.reason) for c in prepared.closed),
        products=_products(prepared.analysis, plan, outcome),
        joint=outcome.joint,
        codes=outcome.codes,
        layers=tuple(LayerReport(name=r.name, before=r.before, after=r.after) for r in outcome.solved),
        before=before,
        after=after,
        proof=outcome.proof,
        heads=() if prepared.head is None else prepared.head.reports,
        tuned=outcome.tuned,
        rounds=outcome.rounds,
        latency=outcome.measured.latency,
        memory=outcome.measured.memory,
        fidelity=outcome.measured.fidelity,
        accuracy=outcome.measured.accuracy,
        seconds=dict(outcome.seconds),
        notes=(*head_notes(prepared), *_notes(config, data), *_wide(config, outcome), *outcome.notes),
    )


def _products(analysis: Analysis, plan: Plan, outcome: Outcome) -> tuple[ProductReport, ...]:
    """Layers that were trained together have no error of their own: only that of the outputs was asked for."""
    sizes = {linear.node.name or "": (linear.features.shape[1], linear.outputs.shape[1]) for linear in analysis.linears}
    solved = () if outcome.joint is not None and outcome.joint.best else outcome.solved
    errors = {one.name: one.after for one in solved if not math.isnan(one.after)}
    return tuple(
        ProductReport(
            name=one.name,
            inputs=sizes[one.name][0],
            outputs=sizes[one.name][1],
            rank=one.rank,
            method=one.method,
            kind=one.kind,
            error=errors.get(one.name),
        )
        for one in plan.products
    )


def _whole(group: Group, analysis: Analysis) -> str:
    """Why a group that could go keeps its width."""
    if analysis.is_idle(group):
        return "no calibration input takes the branch that it is in, so nothing tells what it may lose"
    return "its full width does least damage here"


def _allocation(chosen: Chosen, config: Config) -> str:
    """How widths were set, and whether that is the default."""
    if not chosen.allocation.startswith("global"):
        return chosen.allocation
    return chosen.allocation + (" (asked for)" if "allocate" in config.model_fields_set else " (the default)")


def _totals(macs: float, model: ir.Model) -> Totals:
    return Totals(macs=round(macs), params=parameters(model), bytes=tensor_bytes(model))


def _budget(config: Config, data: Data, groups: Sequence[GroupReport], before: Totals, after: Totals) -> Budget:
    kind, target = budget_of(config, data.source.synthetic)
    if kind == "ranks":
        reached = after.params / max(before.params, 1)
    elif kind == "codes":
        reached = after.bytes / max(before.bytes, 1)
    elif kind in ("ratio", "ratios"):
        reached = 1 - sum(g.kept for g in groups) / max(sum(g.width for g in groups), 1)
    else:
        reached = getattr(after, kind) / max(getattr(before, kind), 1)
    return Budget(kind=kind, target=target, reached=reached)


def _calibrated(data: Data, outcome: Outcome) -> Calibrated:
    source = data.source
    return Calibrated(
        description=source.description,
        samples=source.samples,
        synthetic=source.synthetic,
        disk_bytes=outcome.disk_bytes + (data.made.disk_bytes if data.made is not None else 0),
        guesses=data.guesses,
    )


def _method(group: Group, config: Config, wide: Sequence[Linear]) -> str:
    """The method, and what it came down to where no reader of the group has more than variances."""
    nodes = {linear.node for linear in wide}
    blind = lookup(config.method).needs_data and group.readers and all(x.node in nodes for x in group.readers)
    return f"{config.method} (variances)" if blind else config.method


def _wide(config: Config, outcome: Outcome) -> tuple[str, ...]:
    if not outcome.wide:
        return ()
    names = ", ".join(linear.node.name or "" for linear in outcome.wide[:3])
    more = f" and {len(outcome.wide) - 3} more" if len(outcome.wide) > 3 else ""
    return (
        f"Too wide for Gram matrices in --memory {config.memory}: {names}{more}. Their inputs were judged by variance "
        "times squared weight (FLAP), and they were solved from a few rows, or by their means alone.",
    )


def head_notes(prepared: Prepared) -> tuple[str, ...]:
    """What is to be said of the new head; nothing where there is none."""
    return () if prepared.head is None else prepared.head.notes


def _notes(config: Config, data: Data) -> tuple[str, ...]:
    if not data.source.synthetic or config.stores_only:
        return ()
    given = config.ratios or any(getattr(config, name) is not None for name in BUDGETS)
    budget = "" if given else f" The budget is the careful {CAREFUL}."
    return (
        "No real data was seen: the layers were judged and solved on synthetic inputs, which costs accuracy "
        f"(docs/methods.md has figures). Give --calib a few hundred real inputs.{budget}",
    )
