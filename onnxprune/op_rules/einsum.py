"""The rule of Einsum: letters that are summed over, letters that pass, and letters that a weight makes."""

from collections.abc import Generator, Sequence
from math import prod

import numpy as np

from onnxprune.labels import WHOLE, Atoms, Label
from onnxprune.op_rules.equation import Equation, Letters, Spread, parsed, spread_of
from onnxprune.op_rules.facts import Fact, Facts, Fixed, Kind, Linear, Out, Param, Product, Summed, Tie
from onnxprune.op_rules.registry import Op, fix, hold, line, rule


class Lines:
    """What stands for the positions of one letter of a spread, and the facts that say so."""

    def __init__(self, op: Op) -> None:
        self._op = op
        self._made: dict[tuple[Letters, str], Atoms] = {}
        self.facts: list[Fact] = []

    def of(self, spread: Spread, letter: str) -> Atoms:
        """The atoms for one letter, always the same."""
        key = spread.letters, letter
        if key not in self._made:
            self._made[key], facts = line(self._op, spread.flat(), spread.letters.index(letter))
            self.facts += facts
        return self._made[key]


@rule("Einsum")
def einsum(op: Op) -> Facts:
    """Summed letters of two operands go together, letters of the result pass, those of a weight alone are new."""
    equation = parsed(op)
    if any(len(set(term)) < len(term) for term in equation.terms):
        yield from fix(tuple(x for i in op.activations() for x in op.labels(i)), "Einsum takes a diagonal")
        return
    spreads = yield from _held(equation, (yield from _spreads(equation)))
    lines = Lines(op)
    yield from _tied(spreads, lines)
    for spread in spreads:
        yield from _summed(equation, spread, (yield from _sliced(equation, spread, lines)))
    new = yield from _made(equation)
    made = [new.on(equation.result)] if new is not None else []
    yield Out(0, (*_passed(equation, spreads, lines), *made))
    yield _layer(equation, spreads, lines, new) or _product(equation, spreads)
    yield from lines.facts


def _spreads(equation: Equation) -> Generator[Fact, None, list[Spread]]:
    """The labels of all operands by their letters: alike ones are tied, those that share several letters must stay."""
    found: dict[Letters, Spread] = {}
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
    crossing = [key for key in found if any(key != other and len(set(key) & set(other)) > 1 for other in found)]
    for key in crossing:
        yield Fixed(found[key].atoms, "Einsum joins channels that are split over different axes")
    return [spread for key, spread in found.items() if key not in crossing]


def _held(equation: Equation, spreads: Sequence[Spread]) -> Generator[Fact, None, list[Spread]]:
    """The spreads on the letters that may lose positions.

    Not those that lie on an operand without channels there, nor those that one operand alone has and that are summed;
    and beside summed letters, only the longest of the result's.
    """
    op, free = equation.op, []
    labelled = {(i, x) for spread in spreads for i in spread.carriers for x in spread.letters}
    for spread in spreads:
        here = [(i, x) for i in range(len(equation.terms)) for x in equation.carried(i, spread.letters)]
        bare = {x for i, x in here if (i, x) not in labelled and not op.constant(i)}
        summed = set(spread.letters) - set(equation.result)
        alone = {x for x in summed if sum(x == other for _, other in here) < 2}
        batch = sorted(set(spread.letters) - summed - bare, key=equation.sizes.__getitem__)
        held = bare | alone | set(batch[:-1] if summed else ())
        reason = "Einsum joins it with a tensor that has no prunable channels" if bare else "Einsum sums over its axis"
        yield from hold((spread.flat(),), [spread.letters.index(letter) for letter in held], reason)
        free.append(spread.without(held))
    return [spread for spread in free if spread.letters]


def _tied(spreads: Sequence[Spread], lines: Lines) -> Facts:
    """A letter of several spreads goes from all of them."""
    for letter in dict.fromkeys(letter for spread in spreads for letter in spread.letters):
        first, *others = [spread for spread in spreads if letter in spread.letters]
        yield from (Tie(lines.of(first, letter), lines.of(other, letter)) for other in others)


def _sliced(equation: Equation, spread: Spread, lines: Lines) -> Generator[Fact, None, set[str]]:
    """Slice the constants that share letters with a spread; the letters along which one does."""
    found: set[str] = set()
    summed = set(spread.letters) - set(equation.result)
    for index in range(len(equation.terms)):
        here = equation.carried(index, spread.letters) if equation.op.constant(index) else ()
        if not here:
            continue
        found |= set(here)
        term = equation.held(index)
        if len(here) == len(spread.letters):
            yield Param(index, spread.on(term), bool(summed))
        elif len(here) == 1:
            yield Param(index, Label((term.index(here[0]),), lines.of(spread, here[0])), here[0] in summed)
        else:
            yield Fixed(spread.atoms, "Einsum multiplies a constant over part of its axes")
    return found


def _summed(equation: Equation, spread: Spread, sliced: set[str]) -> Facts:
    """Where no weight is sliced along the summed letters, an operand has to tell what is not summed."""
    summed = set(spread.letters) - set(equation.result)
    if summed and not summed & sliced:
        first = spread.carriers[0]
        yield Summed(first, spread.on(equation.terms[first]))


def _passed(equation: Equation, spreads: Sequence[Spread], lines: Lines) -> list[Label]:
    """The labels of the result: whole spreads, the widest first, and lines of those that do not fit in whole."""
    covered: set[str] = set()
    found: list[Label] = []
    for spread in sorted(spreads, key=lambda x: (not set(x.letters) <= set(equation.result), -len(x.letters))):
        free = [letter for letter in spread.letters if letter in equation.result and letter not in covered]
        if len(free) == len(spread.letters):
            found.append(spread.on(equation.result))
        else:
            found += [Label((equation.result.index(letter),), lines.of(spread, letter)) for letter in free]
        covered |= set(free)
    return found


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


def _layer(equation: Equation, spreads: Sequence[Spread], lines: Lines, new: Spread | None) -> Linear | None:
    """An activation times a weight of summed letters and new ones, one kind after the other; None for anything else."""
    op, weight = equation.op, new.carriers[0] if new is not None else 0
    term = tuple(letter for letter in equation.held(weight) if letter)
    made = tuple(letter for letter in term if new is not None and letter in new.letters)
    rest = tuple(letter for letter in term if letter not in made)
    if new is None or len(equation.terms) != 2 or op.constant(1 - weight) or set(rest) & set(equation.result):
        return None
    features = _features(equation, spreads, lines, rest)
    if equation.carried(1 - weight, rest) != rest or term not in (rest + made, made + rest) or features is None:
        return None
    first = bool(rest) or op.shape(weight)[0] == 1  # a summed letter of one position is not in the term
    kind: Kind = "matmul" if term == rest + made and first else "left_matmul"
    macs = prod(equation.sizes.values()) // prod(op.shape(weight))
    values = op.input(1 - weight), op.input(weight), None, op.node.outputs[0]
    outputs = new.on(made).atoms.reshape(1, -1)
    return Linear(op.node, kind, *values, 1, features, outputs, macs, refit=False)


def _features(equation: Equation, spreads: Sequence[Spread], lines: Lines, rest: Letters) -> Atoms | None:
    """(1, F) what goes with each column of a weight; None where several spreads cross there."""
    inside = [spread for spread in spreads if set(spread.letters) & set(rest)]
    if len(inside) > 1:
        return None
    label = Label((), np.array(WHOLE))
    for spread in inside:
        shared = tuple(letter for letter in rest if letter in spread.letters)
        if len(shared) == len(spread.letters):
            label = spread.on(rest)
        elif len(shared) == 1:
            label = Label((rest.index(shared[0]),), lines.of(spread, shared[0]))
        else:
            return None
    spans = [size if axis in label.axes else 1 for axis, size in enumerate(equation.dims(rest))]
    return np.broadcast_to(label.atoms.reshape(spans), equation.dims(rest)).reshape(1, -1)


def _product(equation: Equation, spreads: Sequence[Spread]) -> Product:
    """A product of activations, whose multiply–adds are in proportion to the label with most positions."""
    largest = max(spreads, key=lambda spread: spread.atoms.size, default=None)
    label = largest.flat() if largest is not None else None
    return Product(equation.op.node, prod(equation.sizes.values()), label)
