"""The rule of Einsum: letters that are summed over, letters that pass, and letters that a weight makes."""

from collections.abc import Generator
from math import prod

import numpy as np

from onnxprune.labels import WHOLE, Label, Labels
from onnxprune.op_rules.equation import Equation, Spread, parsed, spread_of
from onnxprune.op_rules.facts import Fact, Facts, Fixed, Kind, Linear, Out, Param, Product, Summed, Tie
from onnxprune.op_rules.registry import Op, fix, rule, stays_whole


@rule("Einsum")
def einsum(op: Op) -> Facts:
    """Summed letters of two operands go together, letters of the result pass, those of a weight alone are new."""
    equation = parsed(op)
    if any(len(set(term)) < len(term) for term in equation.terms):
        yield from fix(tuple(x for i in op.activations() for x in op.labels(i)), "Einsum takes a diagonal")
        return
    spreads = yield from _spreads(equation)
    passed: list[Label] = []
    for spread in spreads:
        passed += yield from _through(equation, spread)
    new = yield from _made(equation)
    passed += [new.on(equation.result)] if new is not None else []
    yield Out(0, tuple(passed))
    layer = _layer(equation, spreads, new) if new is not None else None
    yield layer or Product(op.node, prod(equation.sizes.values()))


def _spreads(equation: Equation) -> Generator[Fact, None, list[Spread]]:
    """The labels of all operands by their letters; alike ones are tied, overlapping ones and single positions fixed."""
    found: dict[tuple[str, ...], Spread] = {}
    for index in equation.op.activations():
        for label in equation.op.labels(index):
            spread = spread_of(label, equation.terms[index], index)
            known = found.get(spread.letters)
            if spread.atoms.shape != equation.dims(spread.letters):
                yield Fixed(label.atoms, "Einsum broadcasts its single position")
            elif known is None:
                found[spread.letters] = spread
            else:
                yield Tie(known.atoms, spread.atoms)
                found[spread.letters] = Spread(known.letters, known.atoms, (*known.carriers, index))
    crossing = [
        x for x in found.values() if any(x is not y and set(x.letters) & set(y.letters) for y in found.values())
    ]
    for spread in crossing:
        yield Fixed(spread.atoms, "Einsum joins channels that are split over different axes")
    return [spread for spread in found.values() if spread not in crossing]


def _through(equation: Equation, spread: Spread) -> Generator[Fact, None, Labels]:
    """What becomes of one spread: the labels that it has in the result.

    Letters that it shares with an operand without prunable channels stay whole, and so do those of the result that
    have summed ones beside them (heads): what is lost, is lost along the others.
    """
    letters, others = set(spread.letters), list(equation.others(spread))
    summed = letters - set(equation.result)
    whole = {x for index, here in others if not equation.op.constant(index) for x in here}
    whole |= letters - summed if summed else set()
    shared = letters if len(spread.carriers) > 1 else {x for _, here in others for x in here}
    if not summed <= shared:
        yield Fixed(spread.atoms, "Einsum sums over its axis")
        return ()
    if whole >= letters:
        yield Fixed(spread.atoms, "Einsum joins it with a tensor that has no prunable channels")
        return ()
    flat = Label(tuple(range(len(spread.letters))), spread.atoms)
    yield from (stays_whole(flat, axis) for axis, letter in enumerate(spread.letters) if letter in whole)
    sliced = [(index, set(here)) for index, here in others if equation.op.constant(index) and not whole >= set(here)]
    for index, here in sliced:
        if whole | here >= letters:
            yield Param(index, spread.on(equation.held(index)), bool(summed))
        else:
            yield Fixed(spread.atoms, "Einsum multiplies a constant over part of its axes")
    if summed and not any(here & summed for _, here in sliced):
        first = spread.carriers[0]
        yield Summed(first, spread.on(equation.terms[first]))
    return () if summed else (spread.on(equation.result),)


def _made(equation: Equation) -> Generator[Fact, None, Spread | None]:
    """New atoms for the letters of the result that one constant alone has."""
    op = equation.op
    computed = {x for i in op.activations() for x in equation.carried(i, equation.result)}
    new = tuple(x for x in equation.result if x not in computed and equation.sizes[x] > 1)
    makers = [i for i in range(len(equation.terms)) if equation.carried(i, new)]
    if len(makers) != 1:
        return None
    term = equation.held(makers[0])
    letters = tuple(x for x in term if x in new)
    label = Label(
        tuple(map(term.index, letters)), op.fresh(prod(equation.dims(letters))).reshape(equation.dims(letters))
    )
    yield Param(makers[0], label)
    return spread_of(label, term, makers[0])


def _layer(equation: Equation, spreads: list[Spread], new: Spread) -> Linear | None:
    """An activation times a weight of summed letters and new ones, one kind after the other; None for anything else."""
    op, weight = equation.op, new.carriers[0]
    term = tuple(letter for letter in equation.held(weight) if letter)
    made = tuple(letter for letter in term if letter in new.letters)
    rest = tuple(letter for letter in term if letter not in made)
    inside = [spread for spread in spreads if set(spread.letters) & set(rest)]
    if len(equation.terms) != 2 or op.constant(1 - weight) or set(rest) & set(equation.result) or len(inside) > 1:
        return None
    if equation.carried(1 - weight, rest) != rest or term not in (rest + made, made + rest):
        return None
    kind: Kind = "matmul" if term == rest + made else "left_matmul"
    label = inside[0].on(rest) if inside else Label((), np.array(WHOLE))
    spans = [size if axis in label.axes else 1 for axis, size in enumerate(equation.dims(rest))]
    features = np.broadcast_to(label.atoms.reshape(spans), equation.dims(rest)).reshape(1, -1)
    outputs = new.on(made).atoms.reshape(1, -1)
    macs = prod(equation.sizes.values()) // prod(op.shape(weight))
    values = op.input(1 - weight), op.input(weight), None, op.node.outputs[0]
    return Linear(op.node, kind, *values, 1, features, outputs, macs, refit=False)
