"""What each width of a group, and each product of a layer, does to the outputs: probes, and error curves between."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain, islice

import numpy as np

from onnxprune.allocate import Choice
from onnxprune.costs import Float
from onnxprune.dependency import Analysis, Group
from onnxprune.graph import Array
from onnxprune.layers import Layer
from onnxprune.parallel import each
from onnxprune.prepare import Data
from onnxprune.probe import Prober, open_prober
from onnxprune.ranks import Factorable
from onnxprune.scoring import Scored
from onnxprune.together import some_batches

Tick = Callable[[], None]
PROBE_MACS = 2e11
"""Multiply–adds that the probes of a small model may cost: two seconds. A large one gets a third of a pass."""
MOST_WIDTHS, MOST_INPUTS, FEW_INPUTS = 7, 80, 16
TOGETHER = 3
"""Neighbouring groups that one session probes at one width each: to open it takes as long as some of its runs."""
SHARED_FACTOR = 4.0
"""Measured on ResNet-20 (docs/decisions): with 1 the streams are cut, and 0.5 points of accuracy are lost."""


def open_priced(
    analysis: Analysis,
    pairs: Sequence[tuple[Scored, Sequence[int]]],
    products: Sequence[Factorable],
    layers: Sequence[Layer],
    data: Data,
    macs: float,
) -> tuple[Prober, int]:
    """What probes, and how many widths of each group or products of each layer it is to probe."""
    count, inputs = _probe_size(len(pairs) + len(products), data, macs)
    scored, feeds = [one for one, _ in pairs], probe_feeds(data, inputs)
    return open_prober(analysis, layers, scored, feeds, [one.layer for one in products]), count


def probed(
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


def _shared(group: Group) -> float:
    """What a group's damage counts: a stream is dearer than its own probe says, since all its readers lose at once."""
    return SHARED_FACTOR if len(group.readers) > 1 else 1.0


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


def probe_feeds(data: Data, inputs: int) -> Mapping[str, Array]:
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
    return [*np.exp(_along(widths[:-1], knots, np.log(damage))).tolist(), 0.0]


def _along(widths: Sequence[int], knots: Sequence[int], known: Float) -> Float:
    """Straight lines between the knots, and their mean slope below the least: to lose more there is not for nothing."""
    slope = (known[-1] - known[0]) / max(knots[-1] - knots[0], 1)
    return np.asarray(np.interp(widths, knots, known) + slope * np.minimum(np.asarray(widths) - knots[0], 0))


def _curve(scored: Scored, knots: Sequence[int]) -> Float:
    """The layers' error at each width: the criterion's own exact cost, or held out."""
    cost, full = scored.selection.cost, scored.group.width
    if cost is not None:
        return np.asarray(np.maximum(np.array([cost[full - k] for k in knots]) - cost[0], 1e-12))
    return np.asarray(scored.errors(knots))
