"""Einsum's equation: the letters of each operand's axes, and labels told by letter instead of by axis."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxprune.labels import Atoms, Label
from onnxprune.op_rules.registry import Op

Letters = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Spread:
    """Atoms on some letters, in alphabetical order, and the operands that carry them."""

    letters: Letters
    atoms: Atoms
    carriers: tuple[int, ...]

    def flat(self) -> Label:
        """The atoms as a label of a tensor that has these axes and no others."""
        return Label(tuple(range(len(self.letters))), self.atoms)

    def on(self, letters: Letters) -> Label:
        """The label of a tensor whose axes have these letters, among them all of the spread's."""
        axes = [letter for letter in letters if letter in self.letters]
        order = [self.letters.index(letter) for letter in axes]
        return Label(tuple(letters.index(letter) for letter in axes), np.transpose(self.atoms, order))

    def without(self, held: set[str]) -> "Spread":
        """The same atoms, of which the positions of some letters all go together, on the other letters."""
        index = tuple(0 if letter in held else slice(None) for letter in self.letters)
        return Spread(tuple(x for x in self.letters if x not in held), self.atoms[index], self.carriers)


def spread_of(label: Label, term: Letters, operand: int) -> Spread:
    """The label of an operand whose axes have the letters `term`."""
    order = sorted(range(len(label.axes)), key=lambda i: term[label.axes[i]])
    return Spread(tuple(term[label.axes[i]] for i in order), np.transpose(label.atoms, order), (operand,))


@dataclass(frozen=True, eq=False)
class Equation:
    """The letters of each operand's axes, and of the result's; digits stand for the axes of an ellipsis."""

    op: Op
    terms: tuple[Letters, ...]
    result: Letters

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The size of each letter; an operand may have one position there instead."""
        found: dict[str, int] = {}
        for index, term in enumerate(self.terms):
            for letter, size in zip(term, self.op.shape(index), strict=True):
                found[letter] = max(size, found.get(letter, 1))
        return found

    def dims(self, letters: Letters) -> tuple[int, ...]:
        """The sizes of some letters."""
        return tuple(self.sizes[letter] for letter in letters)

    def carried(self, index: int, letters: Letters) -> Letters:
        """Those of some letters that an operand has at full size, more than one."""
        sizes = dict(zip(self.terms[index], self.op.shape(index), strict=True))
        return tuple(letter for letter in letters if sizes.get(letter, 1) == self.sizes[letter] > 1)

    def held(self, index: int) -> Letters:
        """The letters of an operand's axes, an empty one where it has a single position."""
        here = self.carried(index, self.terms[index])
        return tuple(letter if letter in here else "" for letter in self.terms[index])


def parsed(op: Op) -> Equation:
    """Read the equation of an Einsum that ran."""
    inputs, arrow, output = op.attr("equation").replace(" ", "").partition("->")
    texts = inputs.split(",")
    dots = max(len(op.shape(i)) - len(text.replace("...", "")) for i, text in enumerate(texts))
    if not arrow:
        letters = "".join(texts).replace(".", "")
        output = "..." * ("..." in inputs) + "".join(x for x in sorted(set(letters)) if letters.count(x) == 1)
    return Equation(op, tuple(_letters(text, dots) for text in texts), _letters(output, dots))


def _letters(text: str, dots: int) -> Letters:
    """An ellipsis stands for equally many axes everywhere: onnxruntime takes nothing else."""
    before, ellipsis, after = text.partition("...")
    return (*before, *(str(i) for i in range(dots) if ellipsis), *after)
