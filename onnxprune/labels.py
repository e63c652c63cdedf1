"""Labels: which atom (prunable index) lies at each position of a tensor's axes, and how reshapes carry them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

Atoms = npt.NDArray[np.int64]
Shape = tuple[int, ...]

WHOLE = -1
"""The atom of a position that never goes: padding, or the unlabelled part of a Concat."""


@dataclass(frozen=True, eq=False)
class Label:
    """The atoms on some axes of a tensor: `atoms` has the tensor's dims at `axes`, which ascend.

    One axis is the usual case. After Reshape H·d → (H, d) the atoms of one axis lie on two, row-major. An atom may
    lie at many positions (C → C·H·W), and then all of them go together.
    """

    axes: tuple[int, ...]
    atoms: Atoms

    def moved(self, shift: int) -> "Label":
        """The same atoms with every axis number raised by `shift`."""
        return Label(tuple(a + shift for a in self.axes), self.atoms)


Labels = tuple[Label, ...]


def on(axis: int, atoms: Atoms) -> Labels:
    """The labels of a tensor whose only labelled axis is `axis`; none where no position can go."""
    return (Label((axis,), atoms),) if np.any(atoms != WHOLE) else ()


def touching(labels: Labels, axes: Iterable[int]) -> Labels:
    """The labels that lie on at least one of `axes`."""
    wanted = set(axes)
    return tuple(label for label in labels if wanted & set(label.axes))


def apart_from(labels: Labels, axes: Iterable[int]) -> Labels:
    """The labels that lie on none of `axes`."""
    unwanted = set(axes)
    return tuple(label for label in labels if not unwanted & set(label.axes))


def atoms_of(labels: Labels, axis: int, width: int) -> Atoms:
    """The atoms along one axis, `WHOLE` where that axis carries no label of its own."""
    for label in labels:
        if label.axes == (axis,):
            return label.atoms
    return np.full(width, WHOLE, np.int64)


def transposed(labels: Labels, perm: Sequence[int]) -> Labels:
    """The labels after Transpose: output axis i is input axis perm[i]."""
    new_axis = {old: new for new, old in enumerate(perm)}
    result = []
    for label in labels:
        axes = [new_axis[a] for a in label.axes]
        order = np.argsort(axes)
        result.append(Label(tuple(sorted(axes)), np.transpose(label.atoms, order)))
    return tuple(result)


def reshaped(labels: Labels, before: Shape, after: Shape) -> tuple[Labels, Labels]:
    """Carry labels through a row-major reshape: (the labels after it, the labels it loses).

    Axes are cut into the smallest runs of equal product. Where labels meet in one run the positions would stand for
    pairs of atoms: all but the largest are lost. So is a label whose only position has no axis left.
    """
    if 0 in before or prod(before) != prod(after):  # the latter in a model that does not run so
        return (), labels
    runs = _runs(before, after)
    kept: list[Label] = []
    lost: list[Label] = []
    taken: set[int] = set()
    for label in sorted(labels, key=lambda label: -label.atoms.size):
        own = [run for run in runs if set(run[0]) & set(label.axes)]
        inside = {axis for run in own for axis in run[0]}
        through = None if inside & taken else _through(label, own, before, after)
        taken |= inside if through is not None else set()
        kept += [] if through is None else [through]
        lost += [label] if through is None else []
    return tuple(kept), tuple(lost)


Run = tuple[range, range]


def _runs(before: Shape, after: Shape) -> list[Run]:
    runs: list[Run] = []
    i = j = 0
    while i < len(before) or j < len(after):
        start = i, j
        i, j = min(i + 1, len(before)), min(j + 1, len(after))
        while (left := prod(before[start[0] : i])) != (right := prod(after[start[1] : j])):
            i, j = (i + 1, j) if left < right else (i, j + 1)
        runs.append((range(start[0], i), range(start[1], j)))
    return runs


def _through(label: Label, runs: Sequence[Run], before: Shape, after: Shape) -> Label | None:
    """The label after each of its runs is reshaped; other axes of a run repeat it."""
    inside = [axis for run in runs for axis in run[0]]
    outside = [axis for run in runs for axis in run[1]]
    spread = label.atoms.reshape([before[a] if a in label.axes else 1 for a in inside])
    target = np.broadcast_to(spread, [before[a] for a in inside]).reshape([after[a] for a in outside])
    varying = [k for k in range(target.ndim) if np.any(target != target.take([0], k))]
    if not varying:  # one atom everywhere: keep it on the widest axis, or let it be lost to a scalar
        varying = [int(np.argmax(target.shape))] if target.ndim else []
    index = tuple(slice(None) if k in varying else 0 for k in range(target.ndim))
    return Label(tuple(outside[k] for k in varying), target[index]) if varying else None
