"""Widths to a choice, a choice to a plan; and the check that a choice can be proved."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from onnxprune.choose import Chosen
from onnxprune.config import Config
from onnxprune.dependency import Analysis, Keep
from onnxprune.errors import ProofFailed
from onnxprune.graph import Array
from onnxprune.passes.factorize_low_rank import Written
from onnxprune.passes.remove import remove
from onnxprune.plan import CodesPlan, GroupPlan, Plan, ProductPlan, cuts
from onnxprune.prepare import Prepared
from onnxprune.ranks import is_window
from onnxprune.rebuild import Rebuilt
from onnxprune.scoring import Scored
from onnxprune.together import keep_at
from onnxprune.verify import prove


def keep_of_widths(analysis: Analysis, scored: Sequence[Scored], chosen: Chosen) -> Keep:
    """What stays when each group keeps the units that its selection names at the chosen width."""
    return keep_at(analysis, scored, chosen.widths)


def provable(analysis: Analysis, keep: Keep, scored: Sequence[Scored], feeds: Mapping[str, Array]) -> dict[str, str]:
    """The groups whose removal cannot be proved, with the reason; empty where all is well.

    A rule that misjudges an operator shows here: the group then stays whole instead of the run going wrong. Where each
    can be proved alone (a whole head here and a column there may leave a slice of a tensor empty), they are added one
    after the other, and those stay whole that no longer can.
    """
    if not _refusal(analysis, keep, feeds):
        return {}
    failed = {}
    for one in scored:
        alone = analysis.keep_all()
        one.group.cut(alone, one.group.kept(keep))
        if why := _refusal(analysis, alone, feeds):
            failed[one.group.name] = f"its removal cannot be proved: {why}"
    return failed or _refused_in_turn(analysis, keep, scored, feeds)


def _refused_in_turn(
    analysis: Analysis, keep: Keep, scored: Sequence[Scored], feeds: Mapping[str, Array]
) -> dict[str, str]:
    failed, together = {}, analysis.keep_all()
    for one in scored:
        trial = together.copy()
        one.group.cut(trial, one.group.kept(keep))
        if why := _refusal(analysis, trial, feeds):
            failed[one.group.name] = f"its removal cannot be proved together with that of others: {why}"
        else:
            together = trial
    return failed


def _refusal(analysis: Analysis, keep: Keep, feeds: Mapping[str, Array]) -> str:
    """Why a removal cannot be proved; empty where it can."""
    try:
        prove(analysis, remove(analysis, keep), keep, feeds)
    except ProofFailed as error:
        return str(error)
    return ""


def reader_errors(prepared: Prepared, solved: Sequence[Rebuilt]) -> dict[str, float]:
    """The largest held-out error that the rebuild left in a reader of each group; no entry where it knows none."""
    after = {one.name: one.after for one in solved if not math.isnan(one.after)}
    found = {g.name: [after[x.node.name or ""] for x in g.readers if x.node.name in after] for g in prepared.groups}
    return {name: max(errors) for name, errors in found.items() if errors}


def product_plans(analysis: Analysis, written: Sequence[Written], config: Config) -> tuple[ProductPlan, ...]:
    """What the plan says of layers that became products: `--fc` is about those without a window."""
    windows = {linear.node.name for linear in analysis.linears if is_window(linear)}
    return tuple(
        ProductPlan(
            name=one.node,
            rank=one.rank,
            method="response" if one.node in windows else config.fc_rank or "response",
            kind="spatial-svd" if one.along else "channel",
        )
        for one in written
    )


def make_plan(
    prepared: Prepared,
    keep: Keep,
    errors: Mapping[str, float],
    config: Config,
    products: tuple[ProductPlan, ...] = (),
    codes: tuple[CodesPlan, ...] = (),
) -> Plan:
    """The plan of a run: the groups that lose units, with the errors of their readers, the products and the codes."""
    analysis = prepared.analysis
    groups = []
    for group in prepared.groups:
        stays = group.kept(keep)
        if not np.all(stays):
            kept = tuple(np.flatnonzero(stays).tolist())
            groups.append(
                GroupPlan(
                    name=group.name,
                    width=group.width,
                    kept=kept,
                    method=config.method,
                    error=errors.get(group.name),
                    cuts=cuts(analysis, group.units, keep),
                )
            )
    heads = () if prepared.head is None else prepared.head.plans
    version: Literal[1, 2] = 2 if heads or products or codes else 1
    return Plan(
        schema_version=version,
        heads=heads,
        groups=tuple(groups),
        products=products,
        codes=codes,
        open=config.open,
        sampler=config.sampler,
    )
