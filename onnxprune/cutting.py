"""One cut: collect, score, allocate, remove, rebuild; from an analysed graph to one with fewer channels."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

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
from onnxprune.importance import SCORERS
from onnxprune.layers import Layer, layers_in_order
from onnxprune.low_rank.approximate import solver
from onnxprune.low_rank.factors import Factors
from onnxprune.op_rules.facts import Linear
from onnxprune.passes.remove import remove
from onnxprune.planning import keep_of_widths, provable
from onnxprune.prepare import Data, Prepared
from onnxprune.progress import Stages
from onnxprune.ranks import Factorable, can_be_product, factorable, worth
from onnxprune.rebuild import Ranks, Rebuild, Rebuilt, rebuild
from onnxprune.scoring import Scored, score
from onnxprune.widths import runtime_block


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
    notes: tuple[str, ...]
    scored: list[Scored]
    products: list[Factorable]
    wide: tuple[Linear, ...]


def solves(config: Config) -> bool:
    """Whether layers are solved for, be it only to choose."""
    return lookup(config.method).needs_data or config.rebuild != "none" or bool(config.fc or config.conv)


def cut(prepared: Prepared, data: Data, config: Config, stages: Stages) -> Cut:
    """Remove what the budget of `config` asks for, and solve the rest again.

    Raises BadInput where nothing can go, BudgetNotMet where not enough can.
    """
    seen = _look(prepared, data, config, stages)
    chosen, keep, refused = _choose(prepared, seen, data, config, stages)
    # The rebuild needs the targets alone: the moments of all layers go before it.
    left = seen.collected and replace(seen.collected, statistics={})
    ranks = Ranks(worth(chosen.ranks, seen.layers, keep), solver(config.fc or "response", config.init))
    seen = replace(seen, scored=[], products=[], collected=left)
    with stages.stage("remove"):
        slim = remove(prepared.analysis, keep)
    found = _rebuilt(prepared, slim, keep, ranks, seen, data, config, stages)
    solved = tuple(found.solved)
    return Cut(found.model, keep, chosen, refused, solved, found.disk_bytes, seen.wide, seen.notes, found.factors)


def widths(prepared: Prepared, data: Data, config: Config, stages: Stages) -> Chosen:
    """The widths that `cut` would choose.

    Raises as it does.
    """
    return _choose(prepared, _look(prepared, data, config, stages), data, config, stages)[0]


def _look(prepared: Prepared, data: Data, config: Config, stages: Stages) -> _Seen:
    layers, wave = layers_in_order(prepared.analysis)
    layers = [layer for layer in layers if layer.name not in prepared.frozen and layer.bias is not None]
    fits = allowance([layer.linear for layer in layers], config.memory_bytes)
    sampling = Sampling(data.source.samples, data.batches, len(layers), prepared.analysis.trace, config.seed, fits)
    collected = _collect(prepared, layers, data, sampling, config, stages) if solves(config) else None
    importance = _importance(prepared, data, config, stages)
    scored = _score(prepared, collected, importance, config, stages)
    statistics = collected.statistics if collected is not None else {}
    products = factorable(prepared.analysis, layers, statistics, config, _align(config))
    wide = [layer.linear for layer in layers if solves(config) and layer.linear.features.shape[1] > fits.widest]
    return _Seen(layers, wave, sampling, collected, importance.notes, scored, products, tuple(wide))


def _collect(
    prepared: Prepared, layers: list[Layer], data: Data, sampling: Sampling, config: Config, stages: Stages
) -> Collected:
    """Sweep 1."""
    readers = frozenset(linear.node.name or "" for group in prepared.groups for linear in group.readers)
    readers |= {layer.name for layer in layers if can_be_product(layer, config)}
    with stages.stage("collect", data.batches) as tick:
        return collect(prepared.analysis.flat, layers, readers, data.source, sampling, tick)


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
    prepared: Prepared, seen: _Seen, data: Data, config: Config, stages: Stages
) -> tuple[Chosen, Keep, dict[str, str]]:
    """Allocate, and make sure that the removal can be proved before any layer is solved; refuse groups that cannot."""
    refused: dict[str, str] = {}
    while True:
        open_now = [one for one in seen.scored if one.group.name not in refused]
        if not open_now and not seen.products and prepared.wide is None:
            raise BadInput(_nothing(prepared, config, refused))
        with stages.stage("allocate", len(open_now)) as tick:
            costs, align = prepared.costs, _align(config)
            chosen = choose(prepared.analysis, open_now, costs, seen.layers, data, config, align, tick, seen.products)
        keep = keep_of_widths(prepared.analysis, open_now, chosen)
        with stages.stage("verify"):
            failed = provable(prepared.analysis, keep, open_now, data.sample)
        if not failed:
            return chosen, keep, refused
        refused |= failed


def _align(config: Config) -> int:
    return runtime_block() if config.align == "auto" else config.align


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
