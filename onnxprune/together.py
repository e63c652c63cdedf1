"""What a whole allocation does to the outputs: every cut and every product of it at once, from sweep 1 alone.

Damages are added up to choose, as though none knew of the others. A convolution that is pruned *and* becomes a product,
or a network of many small changes, may be off by more than one allocation is better than the next: what is chosen in
the end is chosen by this.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain

import numpy as np

from onnxprune.allocate import Choice, Cost, Widths, least_damage
from onnxprune.calibration.window import batch_of, cut
from onnxprune.dependency import Analysis, Keep
from onnxprune.errors import BudgetNotMet
from onnxprune.graph import Array
from onnxprune.low_rank.factors import Form
from onnxprune.prepare import Data
from onnxprune.probe import Prober
from onnxprune.ranks import Factorable
from onnxprune.scoring import Scored
from onnxprune.weights import from_matrix, from_vector, to_matrix, to_vector

Together = Callable[[Sequence[Widths]], Sequence[float]]
ALONE, MIXED = (0.0, np.inf), (0.3, 1.0)
"""How often the damage of products counts beside that of widths, in the allocations that are tried as a whole."""
QUICKER = 0.985
"""The most time that a mixed allocation may take beside one kind alone: the estimate is right to a hundredth or so."""


def keep_at(analysis: Analysis, scored: Sequence[Scored], widths: Widths) -> Keep:
    """What stays when each group keeps the units that its selection names at its width."""
    keep = analysis.keep_all()
    for one, width in zip(scored, widths, strict=True):
        stays = np.zeros(one.group.width, np.bool_)
        stays[one.selection.keep(int(width))] = True
        one.group.cut(keep, stays)
    return keep


def best_together(
    choices: Sequence[Choice],
    groups: int,
    cost: Cost,
    target: float,
    together: Together,
    effort: Cost | None = None,
) -> Widths:
    """The allocation of least damage; where groups and products may be taken, of some that favour either.

    The first `groups` of the choices are those of groups; `together` tells the damage of whole allocations, and
    `effort` the time that they take: both kinds mixed may take no longer than either kind alone. Raises BudgetNotMet.
    """
    if not 0 < groups < len(choices):
        return least_damage(choices, cost, target)
    alone = list(_allocated(choices, groups, cost, target, ALONE))
    mixed = _allocated(choices, groups, _within(cost, target, effort, alone), target, MIXED)
    found = {tuple(widths.tolist()): widths for widths in chain(alone, mixed)}
    tried = list(found.values())
    if len(tried) < 2:
        return tried[0] if tried else least_damage(choices, cost, target)
    return tried[int(np.argmin(together(tried)))]


def _allocated(
    choices: Sequence[Choice], groups: int, cost: Cost, target: float, favours: Sequence[float]
) -> Iterator[Widths]:
    """The allocations of least damage at each favour that can meet the budget."""
    for favour in favours:
        with suppress(BudgetNotMet):
            yield least_damage(_favoured(choices, groups, favour), cost, target)


def _within(cost: Cost, target: float, effort: Cost | None, alone: Sequence[Widths]) -> Cost:
    """The budget's count, or that of the time beside the least of these, whichever is larger."""
    if effort is None or not alone:
        return cost
    limit = QUICKER * min(float(effort(widths)) for widths in alone)
    return lambda widths: np.maximum(cost(widths), target / limit * effort(widths))


def _favoured(choices: Sequence[Choice], groups: int, favour: float) -> list[Choice]:
    """The choices with the damage of products counted so many times; products alone at 0, widths alone at infinity."""
    widths, products = list(choices[:groups]), list(choices[groups:])
    if favour == 0:
        return [_whole(choice) for choice in widths] + products
    if favour == np.inf:
        return widths + [_whole(choice) for choice in products]
    return widths + [Choice(choice.widths, [favour * damage for damage in choice.damage]) for choice in products]


def _whole(choice: Choice) -> Choice:
    return Choice(choice.widths[-1:], choice.damage[-1:])


def damage_together(
    analysis: Analysis,
    prober: Prober,
    scored: Sequence[Scored],
    products: Sequence[Factorable],
    batches: Iterable[Mapping[str, Array]],
    allocations: Sequence[Widths],
) -> list[float]:
    """The outputs' squared error over their variance, of widths of the groups and, behind them, sizes of products."""
    return prober.whole([_changes(analysis, prober, scored, products, widths) for widths in allocations], batches)


def _changes(
    analysis: Analysis,
    prober: Prober,
    scored: Sequence[Scored],
    products: Sequence[Factorable],
    widths: Widths,
) -> dict[str, Array]:
    """The constants of all layers that change, after what sweep 1 knows of them."""
    cuts = [(one, int(w)) for one, w in zip(scored, widths, strict=False) if w < one.group.width]
    sizes = zip(products, widths[len(scored) :].tolist(), strict=True)
    taken = [(one, form) for one, size in sizes if (form := one.forms[size]) is not None]
    keep, feeds = keep_at(analysis, scored, widths[: len(scored)]), prober.refitted(cuts)
    for one, form in taken:
        feeds |= _product(one, form, keep, {**_constants(one, prober), **feeds})
    return feeds


def _constants(one: Factorable, prober: Prober) -> dict[str, Array]:
    values = (one.layer.linear.weight, one.layer.bias)
    return {value.name or "": prober.constants[value] for value in values if value is not None}


def _product(one: Factorable, form: Form, keep: Keep, now: Mapping[str, Array]) -> dict[str, Array]:
    """The layer's constants as a product of what stays of them, zeros elsewhere; unchanged where that saves nothing."""
    linear, bias = one.layer.linear, one.layer.bias
    assert bias is not None
    old, shift = now[linear.weight.name or ""], now[bias.name or ""]
    outputs, features = keep[linear.outputs[0]], keep[linear.features[0]]
    weight = to_matrix(linear, old)[0].astype(np.float64)
    inside = np.ix_(outputs, features)
    inputs = one.inputs[np.ix_(features, features)] if one.inputs.ndim > 1 else one.inputs[features]
    left = replace(one, weight=weight[inside], inputs=inputs, mean=one.mean[features], forms={})
    form = form.within(len(left.weight), left.weight.shape[1], linear.kernel)
    if left.share(form) >= 1:
        return {}
    product, vector = left.factors(form).product(), to_vector(linear, shift).astype(np.float64)
    vector[outputs] += (left.weight - product) @ left.mean
    weight[inside] = product
    return {
        linear.weight.name or "": from_matrix(linear, weight[None], old.shape).astype(old.dtype),
        bias.name or "": from_vector(linear, vector, shift).astype(shift.dtype),
    }


def some_batches(data: Data, inputs: int) -> Iterator[Mapping[str, Array]]:
    """So many inputs: those laid aside first. Batches of a fixed size are not cut."""
    have = 0
    for feeds in chain(data.apart.batches(), data.source.batches()):
        count = batch_of(feeds, data.axes)
        yield feeds if data.fixed_batch else cut(feeds, data.axes, 0, min(inputs - have, count))
        have += count
        if have >= inputs:
            break
