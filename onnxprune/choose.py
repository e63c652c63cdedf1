"""Widths for every open group: what the budget asks for, by shares or by damage to the outputs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import Literal

import numpy as np

from onnxprune.allocate import Choice, Cost, Widths, uniform
from onnxprune.config import Config
from onnxprune.costs import CostModel, Float, activation_cost, product_cost, runtime_cost
from onnxprune.dependency import Analysis, Group
from onnxprune.graph import Array
from onnxprune.greedy import by_threshold, cheapest_first, damages
from onnxprune.layers import Layer
from onnxprune.low_rank.factors import Form
from onnxprune.parallel import each
from onnxprune.prepare import Data, matches
from onnxprune.probe import Prober, open_prober
from onnxprune.ranks import Factorable
from onnxprune.scoring import Scored
from onnxprune.together import best_together, damage_together, some_batches
from onnxprune.widths import allowed_widths, nearest_width

Tick = Callable[[], None]
BudgetKind = Literal["macs", "params", "ratio", "ratios", "ranks"]
PROBE_MACS = 2e11
"""Multiply–adds that the probes of a small model may cost: two seconds. A large one gets a third of a pass."""
MOST_WIDTHS, MOST_INPUTS, FEW_INPUTS, MOST_TOGETHER = 7, 80, 16, 96
TOGETHER = 3
"""Neighbouring groups that one session probes at one width each: to open it takes as long as some of its runs."""
PADDING = 3 / 8
"""How much of what the runtime pads counts against the budget."""
SHARED_FACTOR = 4.0
"""Measured on ResNet-20 (docs/decisions): with 1 the streams are cut, and 0.5 points of accuracy are lost."""
SAVED = {"macs": "each multiply–add", "params": "each parameter", "memory": "each number of an activation"}
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
    if kind == "ranks":
        return chosen(np.array([w[-1] for w in candidates], np.int64), "ranks alone, as asked for")
    cost = _joint(analysis, groups, costs, products, kind, config, align)
    priced = [w if _is_priced(one, config) else w[-1:] for one, w in zip(scored, candidates, strict=False)]
    priced += candidates[len(groups) :]
    least = np.array([w[0] for w in priced], np.int64)
    if config.allocate == "uniform" or float(cost(least)) > share or not candidates:
        why = "asked for" if config.allocate == "uniform" else "the groups with statistics to price are not enough"
        return chosen(uniform(candidates, cost, share), f"uniform: {why}")
    if config.method == "fisher" and config.fisher_cost is not None:
        choices = [Choice(w, damages(one, w) if len(w) > 1 else [0.0]) for one, w in zip(scored, priced, strict=True)]
        gained = _saved(analysis, groups, costs, config.fisher_cost)
        widths = cheapest_first(choices, cost, share, gained)
        return chosen(widths, f"fisher: the least damage for {SAVED[config.fisher_cost]}")
    if config.method == "l0":
        widths = by_threshold([one.problem.importance for one in scored], candidates, cost, share)
        return chosen(widths, "l0: the channels whose gates stay open under the budget's price")
    pairs, macs = list(zip(scored, priced, strict=False)), float(costs.macs(costs.full))
    prober, count = _prober(analysis, pairs, products, layers, data, macs)
    choices = _probed(prober, pairs, products, count, tick)
    inputs = some_batches(data, min(MOST_TOGETHER, max(FEW_INPUTS, data.source.samples // 4)))
    together = partial(damage_together, analysis, prober, scored, products, inputs)
    best = best_together(choices, len(groups), cost, share, together)
    return chosen(best, "global: the outputs suffer least, by a probe of each group")


def _prober(
    analysis: Analysis,
    pairs: Sequence[tuple[Scored, Sequence[int]]],
    products: Sequence[Factorable],
    layers: Sequence[Layer],
    data: Data,
    macs: float,
) -> tuple[Prober, int]:
    """What probes, and how many widths of each group or products of each layer it is to probe."""
    count, inputs = _probe_size(len(pairs) + len(products), data, macs)
    scored, feeds = [one for one, _ in pairs], _probe_feeds(data, inputs)
    return open_prober(analysis, layers, scored, feeds, [one.layer for one in products]), count


def _probed(
    prober: Prober,
    pairs: Sequence[tuple[Scored, Sequence[int]]],
    products: Sequence[Factorable],
    count: int,
    tick: Tick,
) -> list[Choice]:
    """What each width of each group, and each product of each layer, does to the outputs."""
    together = max(1, TOGETHER // count)
    neighbours = [pairs[i : i + together] for i in range(0, len(pairs), together)]
    damage = chain.from_iterable(each(lambda some: _damage(prober, some, count, tick), neighbours))
    choices = [Choice(w, [d * _shared(one.group) for d in own]) for (one, w), own in zip(pairs, damage, strict=True)]
    return choices + each(lambda one: Choice(one.sizes, _damage_of_products(prober, one, count)), products)


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
    return uniform(candidates, _cost(analysis, groups, costs, kind, config, align), share)


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
    if config.method == "l0" or (config.method == "fisher" and config.fisher_cost is not None):
        return scored.problem.importance is not None
    return bool(scored.judges)


def _saved(analysis: Analysis, groups: Sequence[Group], costs: CostModel, kind: str) -> Cost:
    """What fisher divides damage by, as a function of the open groups' widths."""
    counts: dict[str, Cost] = {"macs": costs.macs, "params": costs.params, "memory": activation_cost(analysis)}
    return at_widths(analysis, groups, costs, counts[kind])


def at_widths(analysis: Analysis, groups: Sequence[Group], costs: CostModel, count: Cost) -> Cost:
    """A count over the widths of all groups as one over those of the open ones, the others whole."""
    place = {id(group): i for i, group in enumerate(analysis.groups)}
    index = np.array([place[id(group)] for group in groups], np.intp)

    def at(widths: np.ndarray) -> np.ndarray:
        every = np.broadcast_to(costs.full, (*widths.shape[:-1], costs.full.size)).astype(widths.dtype)
        every[..., index] = widths
        return np.asarray(count(every))

    return at


def _shared(group: Group) -> float:
    """What a group's damage counts: a stream is dearer than its own probe says, since all its readers lose at once."""
    return SHARED_FACTOR if len(group.readers) > 1 else 1.0


def _candidates(groups: Sequence[Group], costs: CostModel, config: Config, align: int) -> list[list[int]]:
    """The allowed widths of each group; the one that `--ratios` sets where it names the group."""
    found = []
    for group, came in zip(groups, _came(groups, costs), strict=True):
        widths, names = allowed_widths(group, align), group.names | {group.name}
        rate = next((rate for pattern, rate in config.ratios.items() if matches(names, [pattern])), None)
        found.append(widths if rate is None else [nearest_width(widths, came * (1 - rate))])
    return found


def _cost(analysis: Analysis, groups: Sequence[Group], costs: CostModel, kind: str, config: Config, align: int) -> Cost:
    """The budget's count as a function of the open groups' widths, as a share of the original.

    With `--align auto` a part of the multiply–adds that the runtime's blocks add counts too: measured, a layer
    narrower than its block costs something between its own and its padded size (docs/decisions).
    """
    count = costs.macs if kind == "macs" else costs.params
    padded, before = runtime_cost(analysis, align), costs.before
    whole = float(before.macs(before.full)) if kind == "macs" else before.came
    whole_padded = float(runtime_cost(before.analysis, align)(before.full))

    def cost(every: np.ndarray) -> np.ndarray:
        share = count(every) / whole
        if kind != "macs" or config.align != "auto" or not whole_padded:
            return share
        return np.maximum(share, share + PADDING * (padded(every) / whole_padded - share))

    return at_widths(analysis, groups, costs, cost)


def _joint(
    analysis: Analysis,
    groups: Sequence[Group],
    costs: CostModel,
    products: Sequence[Factorable],
    kind: str,
    config: Config,
    align: int,
) -> Cost:
    """The budget's count over widths and, behind them, sizes of products: that over widths, less what those save."""
    over_widths = _cost(analysis, groups, costs, kind, config, align)
    if not products:
        return over_widths
    pairs, count = product_cost(analysis, [one.layer.linear for one in products]), len(groups)
    before, layer = costs.before, np.arange(len(products))
    whole = float(before.macs(before.full)) if kind == "macs" else before.came
    columns, rows = (np.stack(tables) for tables in zip(*(one.table() for one in products), strict=True))

    def cost(every: np.ndarray) -> np.ndarray:
        sizes = every[..., count:].astype(np.intp)
        kept = columns[layer, sizes], rows[layer, sizes]
        at = at_widths(analysis, groups, costs, lambda widths: pairs.saved(widths, kept, kind))
        return np.asarray(over_widths(every[..., :count]) - at(every[..., :count]) / whole)

    return cost


def _damage_of_products(prober: Prober, one: Factorable, count: int) -> list[float]:
    """The damage of every product of a layer, as `_damage` has it of widths."""
    probed = _some(one.sizes[:-1], count)
    changes = [one.feeds(size, prober.constants) for size in probed]
    constants = [value for value in (one.layer.linear.weight, one.layer.bias) if value is not None]
    seen = prober.errors(constants, changes) if probed else []
    return _priced(one.sizes, probed, seen, one.errors, one.sizes[:-1])


def _damage(prober: Prober, pairs: Sequence[tuple[Scored, Sequence[int]]], count: int, tick: Tick) -> list[list[float]]:
    """The damage of every candidate width of some groups: layer errors, scaled by what probes saw at some widths."""
    probed = [_some(widths[:-1], count) for _, widths in pairs]
    trials = [[(one, width)] for (one, _), some in zip(pairs, probed, strict=True) for width in some]
    seen = iter(prober.damage(trials) if trials else [])
    found = []
    for (one, widths), some in zip(pairs, probed, strict=True):
        found.append(_priced(widths, some, list(islice(seen, len(some))), partial(_curve, one)))
        tick()
    return found


def _probe_size(groups: int, data: Data, macs: float) -> tuple[int, int]:
    """(widths a group, inputs): as many as the budget of multiply–adds allows; half the network is run each time."""
    a_pass = data.source.samples * macs
    allowance = max(PROBE_MACS - a_pass, a_pass / 3)
    runs = allowance / max(macs / 2, 1.0) / max(groups, 1)
    widths = int(np.clip(runs / FEW_INPUTS, 1, MOST_WIDTHS))
    return widths, int(np.clip(runs / widths, 4, MOST_INPUTS))


def _some(widths: Sequence[int], count: int) -> list[int]:
    if len(widths) <= count:
        return list(widths)
    return [widths[i] for i in np.unique(np.linspace(0, len(widths) - 1, count + 2)[1:-1].round().astype(int))]


def _probe_feeds(data: Data, inputs: int) -> Mapping[str, Array]:
    """One batch of inputs: those laid aside first, then some of the others. A model of fixed batch size gets one."""
    if data.fixed_batch:
        return next(iter(data.apart.batches()))
    parts = list(some_batches(data, inputs))
    return {
        name: array if data.axes.get(name) is None else np.concatenate([p[name] for p in parts], data.axes[name])
        for name, array in parts[0].items()
    }


def _priced(
    widths: Sequence[int],
    probed: Sequence[int],
    seen: Sequence[float],
    curve: Callable[[Sequence[int]], Float],
    told: Sequence[int] = (),
) -> list[float]:
    """What the probes saw, and between them what the layers' error `curve` says, scaled to fit; log-linear in k.

    The curve is asked at the widths `told`, at some if there are none.
    A width counts at least what any larger one does: that less left does less damage is an accident of the few inputs.
    """
    if not probed:
        return [0.0 for _ in widths]
    knots = sorted({*(told or _some(widths[:-1], MOST_WIDTHS)), *probed})
    errors = np.ones(len(knots)) if len(probed) == len(knots) else curve(knots)  # where all are probed, it cancels
    at_probed = np.array([errors[knots.index(w)] for w in probed])
    rates = np.asarray(seen) / np.maximum(at_probed, 1e-12)
    damage = np.maximum(errors * np.interp(knots, probed, rates), 1e-12)
    damage = np.maximum.accumulate(damage[::-1])[::-1]
    return [*np.exp(np.interp(widths[:-1], knots, np.log(damage))).tolist(), 0.0]


def _curve(scored: Scored, knots: Sequence[int]) -> Float:
    """The layers' error at each width: the criterion's own exact cost, or held out."""
    cost, full = scored.selection.cost, scored.group.width
    if cost is not None:
        return np.asarray(np.maximum(np.array([cost[full - k] for k in knots]) - cost[0], 1e-12))
    return np.asarray(scored.errors(knots))
