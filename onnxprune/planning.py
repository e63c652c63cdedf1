"""Widths to a choice, a choice to a plan; and the check that a choice can be proved."""

from collections.abc import Mapping, Sequence

import numpy as np

from onnxprune.choose import Chosen
from onnxprune.config import Config
from onnxprune.dependency import Analysis, Keep
from onnxprune.errors import ProofFailed
from onnxprune.graph import Array
from onnxprune.passes.remove import remove
from onnxprune.plan import GroupPlan, Plan, cuts
from onnxprune.prepare import Prepared
from onnxprune.scoring import Scored
from onnxprune.verify import prove


def keep_of_widths(analysis: Analysis, scored: Sequence[Scored], chosen: Chosen) -> Keep:
    """What stays when each group keeps the units that its selection names at its width."""
    keep = analysis.keep_all()
    for one, width in zip(scored, chosen.widths, strict=True):
        keep[one.group.units] = False
        keep[one.group.units[one.selection.keep(int(width))]] = True
    return keep


def provable(analysis: Analysis, keep: Keep, scored: Sequence[Scored], feeds: Mapping[str, Array]) -> dict[str, str]:
    """The groups whose removal cannot be proved, with the reason; empty where all is well.

    A rule that misjudges an operator shows here: the group then stays whole instead of the run going wrong.
    """
    try:
        prove(analysis, remove(analysis, keep), keep, feeds)
    except ProofFailed as whole:
        failed = {}
        for one in scored:
            alone = analysis.keep_all()
            alone[one.group.units] = keep[one.group.units]
            try:
                prove(analysis, remove(analysis, alone), alone, feeds)
            except ProofFailed as error:
                failed[one.group.name] = f"its removal cannot be proved: {error}"
        if not failed:
            raise ProofFailed(f"{whole}; each group alone can be proved, all together cannot") from whole
        return failed
    return {}


def make_plan(prepared: Prepared, chosen: Chosen, keep: Keep, config: Config) -> Plan:
    """The plan of a run: the groups that lose units."""
    analysis = prepared.analysis
    errors = dict(zip(chosen.names, chosen.errors, strict=True))
    groups = []
    for group in prepared.groups:
        stays = keep[group.units]
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
    return Plan(groups=tuple(groups))
