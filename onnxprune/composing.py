"""A model that was cut before, in terms of the original: its groups are the original's, and its cuts add up to one."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxprune.config import Config
from onnxprune.dependency import Analysis, Closed, Group, Keep, analyse
from onnxprune.errors import ProofFailed
from onnxprune.graph import array_of, constants, replace_constant, values_by_name
from onnxprune.grouping import Slot
from onnxprune.labels import WHOLE, Atoms
from onnxprune.passes.remove import remove
from onnxprune.prepare import Data, Prepared, choosable, traced

OTHERWISE = "what is left of it hangs together otherwise than in the original"


@dataclass(frozen=True, eq=False)
class Places:
    """Pairs of units that lie at one position of one tensor: in the original, and in what earlier cuts left of it."""

    first: Atoms
    later: Atoms

    def composed(self, keep: Keep, later: Keep) -> Keep:
        """What stays of the original, when of what `keep` left only this stays."""
        total = keep.copy()
        total[self.first[~later[self.later]]] = False
        return total


def places(first: Analysis, keep: Keep, later: Analysis) -> Places:
    """Read off every labelled tensor where the units of an analysis lie in the original's, cut by `keep`."""
    before = _by_place(first)
    found = [np.empty((0, 2), np.int64)]
    for place, slots in _by_place(later).items():
        for old, new in zip(before.get(place, ()), slots, strict=False):
            atoms = old.label.atoms[keep[old.label.atoms]]
            if atoms.size == new.label.atoms.size:
                found.append(np.stack([atoms, new.label.atoms.reshape(-1)], axis=1))
    pairs = np.unique(np.concatenate(found), axis=0)
    pairs = pairs[pairs[:, 1] != WHOLE]
    return Places(pairs[:, 0], pairs[:, 1])


def _by_place(analysis: Analysis) -> Mapping[tuple[str, tuple[int, ...], str], list[Slot]]:
    found: dict[tuple[str, tuple[int, ...], str], list[Slot]] = defaultdict(list)
    for slot in analysis.slots:
        reader = "" if slot.reader is None else slot.reader.name or ""
        found[slot.value.name or "", slot.label.axes, reader].append(slot)
    return found


def prepare_again(
    first: Prepared, keep: Keep, model: ir.Model, data: Data, config: Config, refused: Collection[str]
) -> tuple[Prepared, Places]:
    """Analyse what `keep` left of a model, under the names of its groups; those in `refused` may lose no more.

    A group that does not match one of the original's, block by block, stays.
    """
    analysis = analyse(model, traced(model, replace(data, seen=None)), config.open)
    where = places(first.analysis, keep, analysis)
    known: list[Group | None] = []
    for group in analysis.groups:
        old = _as_before(first.analysis, keep, group, analysis, where)
        known.append(None if old is None or old.name in {g.name for g in known if g is not None} else old)
    named = [old or new for old, new in zip(known, analysis.groups, strict=True)]
    analysis = replace(analysis, groups=tuple(named))
    allowed = {group.name for group in first.groups} - set(refused)
    groups, closed = choosable([group for group in known if group is not None and group.name in allowed], config)
    closed += [Closed(g.name, g.width, OTHERWISE) for g, old in zip(named, known, strict=True) if old is None]
    return Prepared(model, analysis, groups, (*analysis.closed, *closed), first.frozen, first), where


def _as_before(first: Analysis, keep: Keep, group: Group, later: Analysis, where: Places) -> Group | None:
    """The group by its name in the original, if its blocks are what is left of those of one group there."""
    block = group.positions(later.units)[where.later]
    units, block = where.first[block >= 0], block[block >= 0]
    if not units.size or np.any(units == WHOLE):
        return None
    for old in first.groups:
        mine = old.positions(first.units)[units]
        pairs = np.unique(np.stack([block, mine], axis=1), axis=0)
        left = int(old.kept(keep).sum())
        covered = np.unique(units).size == int(keep[old.units].sum())
        if np.all(mine >= 0) and covered and len(pairs) == group.width == left == np.unique(pairs[:, 1]).size:
            rows = None if old.rows is None else np.unique(old.rows[pairs[:, 1]], return_inverse=True)[1]
            return replace(group, name=old.name, rows=group.rows if rows is None else rows)
    return None


def carried(analysis: Analysis, keep: Keep, model: ir.Model) -> ir.Model:
    """What `keep` leaves of the original, with the weights of a model that lost the same in several cuts.

    Raises ProofFailed where they do not fit.
    """
    slim, finals = remove(analysis, keep), values_by_name(model)
    known = {value.name for value in constants(analysis.model)}
    for value in constants(slim):
        final = finals.get(value.name or "") if value.name in known else None
        if final is None or final.const_value is None or value.const_value is None:
            continue
        if tuple(final.const_value.shape) != tuple(value.const_value.shape):
            raise ProofFailed(
                f"{value.name!r} has the shape {tuple(final.const_value.shape)} after several cuts, and "
                f"{tuple(value.const_value.shape)} after one"
            )
        if isinstance(final.const_value, ir.LazyTensor):  # it would be cut from a model of an earlier round
            replace_constant(value, array_of(final))
        else:
            value.const_value = final.const_value
    return slim
