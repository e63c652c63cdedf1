"""How a network does on the samples that are kept to judge with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from onnxprune.graph import Array
from onnxprune.training.losses import Loss, Named, Term, classes_of
from onnxprune.training.processes import Processes

Compute = Callable[[Array, int | None], tuple[Named, Named, Tensor | None]]
"""Outputs, the teacher's answers and labels for some samples, as they are seen in an epoch or (None) as they are."""


@dataclass(frozen=True)
class Judged:
    """The loss; the share of equal classes where there are classes, else the relative difference of the outputs."""

    loss: float
    same_class: float | None
    difference: float | None

    def text(self) -> str:
        """In a few words."""
        if self.same_class is not None:
            return f"same class for {100 * self.same_class:.1f} %"
        return "" if self.difference is None else f"outputs differ by {100 * self.difference:.1f} %"


def judge(
    rows: Array, batch: int, compute: Compute, loss: Loss, terms: Sequence[Term], together: Processes
) -> Judged | None:
    """Judge on these samples, each process on its share; None where there are none."""
    if not len(rows):
        return None
    sums = torch.zeros(6, dtype=torch.float64)
    for start in range(0, len(rows), batch):
        if start // batch % together.world == together.rank:
            part = rows[start : start + batch]
            with torch.no_grad():
                outputs, answers, labels = compute(part, None)
                found = float(loss(outputs, answers, labels)) * len(part)
            sums += torch.tensor([found, len(part), *_agreement(outputs, answers, labels, terms)], dtype=torch.float64)
    total, count, same, of, error, norm = together.total(sums.to(together.device).float()).tolist()
    return Judged(total / count, same / of if of else None, float(np.sqrt(error / norm)) if norm else None)


def _agreement(
    outputs: Named, answers: Named, labels: Tensor | None, terms: Sequence[Term]
) -> tuple[float, float, float, float]:
    """How many classes agree with the teacher's (or, without one, with the labels), of how many; error and norm."""
    classes = classes_of([term for term in terms if term.kind != "numbers"])
    if classes is not None:
        found = outputs[classes.name].argmax(classes.axis)
        wanted = answers[classes.name].argmax(classes.axis) if classes.name in answers else labels
        if wanted is not None and wanted.shape == found.shape:
            return float((found == wanted).sum()), float(found.numel()), 0.0, 0.0
    named = [term.name for term in terms if term.name in answers]
    error = sum(float(((outputs[n] - answers[n]).double() ** 2).sum()) for n in named)
    return 0.0, 0.0, error, sum(float((answers[n].double() ** 2).sum()) for n in named)
