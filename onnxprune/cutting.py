"""One cut: collect, score, allocate, remove, rebuild; from an analysed graph to one with fewer channels."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxprune.calibration.allowance import allowance
from onnxprune.calibration.collect import Collected, collect
from onnxprune.calibration.sampling import Sampling
from onnxprune.choose import Chosen, choose
from onnxprune.config import Config
from onnxprune.criteria import lookup
from onnxprune.criteria.problem import Options
from onnxprune.criteria.scored import Scores
from onnxprune.dependency import Keep
from onnxprune.errors import BadInput
from onnxprune.half_open import fold_half_open
from onnxprune.importance import SCORERS
from onnxprune.layers import Layer, layers_in_order
from onnxprune.low_rank.approximate import solver
from onnxprune.low_rank.factors import Factors
from onnxprune.op_rules.facts import Linear
from onnxprune.passes.remove import remove
from onnxprune.planning import keep_of_widths, provable
from onnxprune.prepare import Data, Prepared, choosable
from onnxprune.progress import Stages
from onnxprune.ranks import Factorable, can_be_product, factorable, worth
from onnxprune.rebuild import Ranks, Rebuild, Rebuilt, rebuild
from onnxprune.scoring import Scored, score
from onnxprune.sharing import ALONE as ONE
from onnxprune.sharing import Alone
from onnxprune.widths import runtime_block

ENOUGH = "the new head alone meets the budget"


@dataclass(frozen=True, eq=False)
class Cut:
    """What a cut came to; `refused` tells of groups why they stay, `wide` lists what was judged by variances alone.

    The weights of layers in `factors`, by their names, are products: multiplied out in `model`.
    """

    model: ir.Model
    keep: Keep
    chosen: Chosen
    refused: Mapping[str, str]
    solved: tuple[Rebuilt, ...]
    disk_bytes: int
    wide: tuple[Linear, ...]
    notes: tuple[str, ...]
    factors: Mapping[str, Factors]


@dataclass(frozen=True, eq=False)
class _Seen:
    """The layers, what was collected of them, and what that says of every group."""

    layers: list[Layer]
    wave: dict[str, int]
    sampling: Sampling
    collected: Collected | None
    importance: Scores
    scored: list[Scored]
    products: list[Factorable]
    wide: tuple[Linear, ...]


@dataclass(frozen=True, eq=False)
class _Judged:
    """What a method says of every group, whatever the budget."""

    scored: list[Scored]
    products: list[Factorable]
    importance: Scores


def solves(config: Config) -> bool:
    """Whether layers are solved for, be it only to choose."""
    return (
        lookup(config.method).needs_data
        or (config.rebuild != "none" and not config.stores_only)
        or bool(config.fc_rank or config.conv)
    )


def cut(prepared: Prepared, data: Data, config: Config, stages: Stages, shared: Alone) -> Cut:
    """Remove what the budget of `config` asks for, and solve the rest again.

    Raises BadInput where nothing can go, BudgetNotMet where not enough can.
    """
    if prepared.alone:
        return _untouched(prepared)
    seen = _look(prepared, data, config, stages, shared)
    chosen, keep, refused = _choose(prepared, seen, data, config, stages, shared)
    # The rebuild needs the targets alone: the moments of all layers go before it.
    left = seen.collected and replace(seen.collected, statistics={})
    method = solver(config.fc_rank or "response", config.init)
    ranks = Ranks(worth(prepared.analysis, chosen.forms, seen.layers, keep), method)
    seen = replace(seen, scored=[], products=[], collected=left)
    with stages.stage("remove"):
        slim, notes = _removed(prepared, keep, seen.importance, config)
    found = _rebuilt(prepared, slim, keep, ranks, seen, data, config, stages)
    return Cut(
        model=found.model,
        keep=keep,
        chosen=chosen,
        refused=refused,
        solved=tuple(found.solved),
        disk_bytes=found.disk_bytes,
        wide=seen.wide,
        notes=(*seen.importance.notes, *notes),
        factors=found.factors,
    )


def _untouched(prepared: Prepared) -> Cut:
    """No cut, for the new head is enough."""
    keep, refused = prepared.analysis.keep_all(), {group.name: ENOUGH for group in prepared.groups}
    chosen = Chosen((), np.empty(0, np.int64), f"none: {ENOUGH}")
    return Cut(remove(prepared.analysis, keep), keep, chosen, refused, (), 0, (), (), {})


def widths(
    prepared: Prepared, data: Data, config: Config, stages: Stages, shared: Alone
) -> tuple[Chosen, Mapping[str, str]]:
    """The widths that `cut` would choose, and the groups that it would refuse.

    Raises as it does.
    """
    seen = _look(prepared, data, config, stages, shared)
    chosen, _, refused = _choose(prepared, seen, data, config, stages, shared)
    return chosen, refused


def look(prepared: Prepared, data: Data, config: Config, stages: Stages) -> "_Seen":
    """What one sweep tells of every layer and group, whatever the budget."""
    return _look(prepared, data, config, stages, ONE)


def _look(prepared: Prepared, data: Data, config: Config, stages: Stages, shared: Alone) -> _Seen:
    layers, wave = layers_in_order(prepared.analysis)
    layers = [layer for layer in layers if layer.name not in prepared.frozen and layer.bias is not None]
    fits = allowance([layer.linear for layer in layers], config.memory_bytes)
    sampling = Sampling(data.source.samples, data.batches, len(layers), prepared.analysis.trace, config.seed, fits)
    collected = _collect(prepared, layers, data, sampling, config, stages, shared) if solves(config) else None

    def judge() -> _Judged:
        importance = _importance(prepared, data, config, stages)
        scored = _score(prepared, collected, importance, config, stages)
        statistics = collected.statistics if collected is not None else {}
        return _Judged(scored, factorable(prepared.analysis, layers, statistics, config, _align(config)), importance)

    names = tuple(group.name for group in prepared.groups)
    judged = shared.once("scored", config, judge, prepared.analysis, names, collected)
    wide = [layer.linear for layer in layers if solves(config) and layer.linear.features.shape[1] > fits.widest]
    importance = judged.importance
    return _Seen(layers, wave, sampling, collected, importance, judged.scored, judged.products, tuple(wide))


def _collect(
    prepared: Prepared,
    layers: list[Layer],
    data: Data,
    sampling: Sampling,
    config: Config,
    stages: Stages,
    shared: Alone,
) -> Collected:
    """Sweep 1."""
    every = (prepared.groups, *(choosable(prepared.analysis.groups, run)[0] for run in shared.others(config)))
    readers = frozenset(linear.node.name or "" for groups in every for group in groups for linear in group.readers)
    runs = (config, *shared.others(config))
    readers |= {layer.name for layer in layers if any(can_be_product(layer, run) for run in runs)}

    def sweep() -> Collected:
        with stages.stage("collect", data.batches) as tick:
            return collect(prepared.analysis.flat, layers, readers, data.source, sampling, tick)

    return shared.once("collected", config, sweep, prepared.analysis)


def _importance(prepared: Prepared, data: Data, config: Config, stages: Stages) -> Scores:
    """What the method says of the whole graph, where it is one that looks at that."""
    if config.method not in SCORERS or not prepared.groups:
        return Scores({})
    with stages.stage("importance") as tick:
        return SCORERS[config.method](prepared, data, config, tick)


def _score(
    prepared: Prepared, collected: Collected | None, importance: Scores, config: Config, stages: Stages
) -> list[Scored]:
    options, criterion = Options(norm=config.norm, forward=config.forward), lookup(config.method)
    with stages.stage("score", len(prepared.groups)) as tick:
        groups, seed = prepared.groups, config.seed
        return score(prepared.analysis, collected, criterion, options, seed, groups, tick, importance.by_group)


def _choose(
    prepared: Prepared, seen: _Seen, data: Data, config: Config, stages: Stages, shared: Alone
) -> tuple[Chosen, Keep, dict[str, str]]:
    """Allocate, and make sure that the removal can be proved before any layer is solved; refuse groups that cannot."""
    refused: dict[str, str] = {}
    while True:
        open_now = [one for one in seen.scored if one.group.name not in refused]
        if not (open_now or seen.products or config.stores_only) and prepared.wide is None:
            raise BadInput(_nothing(prepared, config, refused))
        with stages.stage("allocate", len(open_now)) as tick:
            costs, align = prepared.costs, _align(config)
            chosen = choose(
                prepared.analysis, open_now, costs, seen.layers, data, config, align, tick, seen.products, shared
            )
        keep = keep_of_widths(prepared.analysis, open_now, chosen)
        with stages.stage("verify"):
            failed = provable(prepared.analysis, keep, open_now, data.sample)
        if not failed:
            return chosen, keep, refused
        refused |= failed


def _align(config: Config) -> int:
    return runtime_block() if config.align == "auto" else config.align


def _removed(prepared: Prepared, keep: Keep, importance: Scores, config: Config) -> tuple[ir.Model, tuple[str, ...]]:
    """The slim model; where no rebuild makes up for it, with what half-open gates let through in the weights."""
    slim = remove(prepared.analysis, keep)
    if config.rebuild != "none" or not importance.factors:
        return slim, ()
    return fold_half_open(prepared, slim, keep, importance.factors)


def _nothing(prepared: Prepared, config: Config, refused: dict[str, str]) -> str:
    if config.method == "none":
        return "--method none removes nothing, and no layer can become a smaller product: " + (
            "give --fc or --conv" if not (config.fc or config.conv) else "--rank is too large, or there is none"
        )
    closed = [f"{c.name} ({c.width}): {c.reason}" for c in prepared.closed] + [f"{n}: {r}" for n, r in refused.items()]
    return "no channel of this model can go: " + "; ".join(closed or ["it has no layer with a constant weight"])


def _rebuilt(
    prepared: Prepared,
    slim: ir.Model,
    keep: Keep,
    ranks: Ranks,
    seen: _Seen,
    data: Data,
    config: Config,
    stages: Stages,
) -> Rebuild:
    """Sweep 2."""
    if seen.collected is None or (config.rebuild == "none" and not ranks.of):
        return Rebuild(slim, [], {}, 0)
    layers, wave, collected, source = seen.layers, seen.wave, seen.collected, data.source
    with stages.stage("rebuild", max((layer.wave for layer in layers), default=0) + 1) as tick:
        return rebuild(
            prepared.analysis, slim, keep, layers, wave, collected, source, seen.sampling, config.rebuild, tick, ranks
        )
