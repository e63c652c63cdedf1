"""Widths for every open group: what the budget asks for, by shares or by damage to the outputs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np

from onnxprune.allocate import Choice, Cost, Widths, uniform
from onnxprune.config import Config
from onnxprune.costs import CostModel, activation_cost
from onnxprune.counting import Counts
from onnxprune.dependency import Analysis, Group
from onnxprune.errors import BadInput
from onnxprune.greedy import by_threshold, cheapest_first, damages
from onnxprune.layer_times import layer_times
from onnxprune.layers import Layer
from onnxprune.low_rank.factors import Form
from onnxprune.prepare import Data, matches
from onnxprune.pricing import open_priced, probed
from onnxprune.probe import Prober
from onnxprune.ranks import Factorable
from onnxprune.scoring import Scored
from onnxprune.sharing import ALONE, Alone
from onnxprune.together import best_together, damage_together, some_batches
from onnxprune.widths import allowed_widths, nearest_width

Tick = Callable[[], None]
BudgetKind = Literal["macs", "params", "ratio", "ratios", "ranks", "codes"]
FEWEST_TOGETHER, MOST_TOGETHER = 16, 96
"""Inputs on which whole allocations are compared."""
SAVED = {
    "macs": "each multiply–add",
    "params": "each parameter",
    "memory": "each number of an activation",
    "time": "each millisecond",
}
CAREFUL, USUAL = 0.75, 0.5
"""The default share of multiply–adds that stays: with synthetic inputs, and with real ones."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """The width of each open group, in the order of `names`, the products of layers, and how all that came about."""

    names: tuple[str, ...]
    widths: Widths
    allocation: str
    forms: Mapping[str, Form] = field(default_factory=dict)


def budget_of(config: Config, synthetic: bool) -> tuple[BudgetKind, float]:
    """(kind, share): what the options ask for, or the default for this data."""
    if config.ratio is not None:
        return "ratio", config.ratio
    if config.params is not None:
        return "params", config.params
    if config.speedup is not None:
        return "macs", 1 / config.speedup
    if config.macs is not None:
        return "macs", config.macs
    if config.ratios:
        return "ratios", 0.0
    if config.stores_only:
        return "codes", 0.0
    if config.method == "none" and (config.rank is not None or config.energy is not None):
        return "ranks", 0.0
    return "macs", CAREFUL if synthetic else USUAL


def choose(
    analysis: Analysis,
    scored: Sequence[Scored],
    costs: CostModel,
    layers: Sequence[Layer],
    data: Data,
    config: Config,
    align: int,
    tick: Tick = lambda: None,
    products: Sequence[Factorable] = (),
    shared: Alone = ALONE,
) -> Chosen:
    """Set the width of every scored group, and which layers become which products.

    Raises BudgetNotMet where no allowed widths meet the budget.
    """
    groups = [one.group for one in scored]
    candidates = _candidates(groups, costs, config, align) + [list(one.sizes) for one in products]

    def chosen(widths: Widths, allocation: str) -> Chosen:
        sizes = zip(products, widths[len(groups) :].tolist(), strict=True)
        forms = {one.layer.name: form for one, size in sizes if (form := one.forms[size]) is not None}
        return Chosen(tuple(group.name for group in groups), widths[: len(groups)], allocation, forms)

    kind, share = budget_of(config, data.source.synthetic)
    if kind in ("ratio", "ratios"):
        came = [*_came(groups, costs), *(one.sizes[-1] for one in products)]
        return chosen(_by_rate(candidates, came, kind, share), "the same share of every group")
    if kind == "codes":
        return chosen(np.empty(0, np.int64), "nothing goes: weights are stored in fewer bytes")
    if kind == "ranks":
        return chosen(np.array([w[-1] for w in candidates], np.int64), "ranks alone, as asked for")
    counts = Counts(analysis, groups, costs, products)
    cost = counts.share(kind)
    priced = [w if _is_priced(one, config) else w[-1:] for one, w in zip(scored, candidates, strict=False)]
    priced += candidates[len(groups) :]
    least = np.array([w[0] for w in priced], np.int64)
    if config.allocate == "uniform" or float(cost(least)) > share or not candidates:
        why = "asked for" if config.allocate == "uniform" else "the groups with statistics to price are not enough"
        return chosen(uniform(candidates, cost, share), f"uniform: {why}")
    if _chooses_itself(config):
        if products:
            raise BadInput(f"--method {config.method} sets widths itself: give --fc and --conv to a run of their own")
        return chosen(*_by_scores(analysis, scored, priced, candidates, costs, config, cost, share))
    pairs, macs = list(zip(scored, priced, strict=False)), float(costs.macs(costs.full))
    of = (*scored, *products), tuple(map(tuple, priced))

    def looked() -> tuple[Prober, list[Choice]]:
        prober, count = open_priced(analysis, pairs, products, layers, data, macs)
        return prober, probed(prober, pairs, products, count, tick)

    prober, choices = shared.once("probed", config, looked, *of)
    inputs = some_batches(data, min(MOST_TOGETHER, max(FEWEST_TOGETHER, data.source.samples // 4)))
    together = partial(damage_together, analysis, prober, scored, products, inputs)
    effort = counts.effort() if kind == "macs" and groups and products else None
    best = best_together(choices, len(groups), cost, share, together, effort)
    return chosen(best, "global: the outputs suffer least, by a probe of each group")


def _chooses_itself(config: Config) -> bool:
    return config.method == "l0" or (config.method == "fisher" and config.fisher_cost is not None)


def _by_scores(
    analysis: Analysis,
    scored: Sequence[Scored],
    priced: Sequence[Sequence[int]],
    candidates: Sequence[Sequence[int]],
    costs: CostModel,
    config: Config,
    cost: Cost,
    share: float,
) -> tuple[Widths, str]:
    """The widths that the scores of a method ask for by themselves, and how that is called."""
    if config.fisher_cost is None or config.method != "fisher":
        widths = by_threshold([one.problem.importance for one in scored], candidates, cost, share)
        return widths, "l0: the channels whose gates stay open under the budget's price"
    choices = [Choice(w, damages(one, w) if len(w) > 1 else [0.0]) for one, w in zip(scored, priced, strict=True)]
    gained = _saved(analysis, [one.group for one in scored], costs, config)
    return cheapest_first(choices, cost, share, gained), f"fisher: the least damage for {SAVED[config.fisher_cost]}"


def uniform_widths(
    analysis: Analysis, groups: Sequence[Group], costs: CostModel, synthetic: bool, config: Config, align: int
) -> Widths:
    """The widths at which all groups lose the same share: what is known of the outcome before anything is scored.

    Raises BudgetNotMet where no allowed widths meet the budget.
    """
    candidates = _candidates(groups, costs, config, align)
    kind, share = budget_of(config, synthetic)
    if kind in ("ratio", "ratios"):
        return _by_rate(candidates, _came(groups, costs), kind, share)
    return uniform(candidates, Counts(analysis, groups, costs).share(kind), share)


def _came(groups: Sequence[Group], costs: CostModel) -> list[int]:
    """The widths before the first cut."""
    before = {group.name: group.width for group in costs.before.analysis.groups}
    return [before[group.name] for group in groups]


def _by_rate(candidates: Sequence[Sequence[int]], came: Sequence[int], kind: BudgetKind, share: float) -> Widths:
    kept = 1 - share if kind == "ratio" else 1.0
    widths = [w[0] if len(w) == 1 else nearest_width(w, n * kept) for w, n in zip(candidates, came, strict=True)]
    return np.array(widths, np.int64)


def _is_priced(scored: Scored, config: Config) -> bool:
    """Whether something tells what the group's channels are worth beside those of other groups."""
    if _chooses_itself(config):
        return scored.problem.importance is not None
    return bool(scored.judges)


def _saved(analysis: Analysis, groups: Sequence[Group], costs: CostModel, config: Config) -> Cost:
    """What fisher divides damage by, as a function of the open groups' widths."""
    counts: dict[str, Callable[[], Cost]] = {
        "macs": lambda: costs.macs,
        "params": lambda: costs.params,
        "memory": lambda: activation_cost(analysis),
        "time": lambda: layer_times(analysis, config),
    }
    return Counts(analysis, groups, costs).at_widths(counts[config.fisher_cost or "macs"]())


def _candidates(groups: Sequence[Group], costs: CostModel, config: Config, align: int) -> list[list[int]]:
    """The allowed widths of each group; the one that `--ratios` sets where it names the group."""
    found = []
    for group, came in zip(groups, _came(groups, costs), strict=True):
        widths, names = allowed_widths(group, align), group.names | {group.name}
        rate = next((rate for pattern, rate in config.ratios.items() if matches(names, [pattern])), None)
        found.append(widths if rate is None else [nearest_width(widths, came * (1 - rate))])
    return found
