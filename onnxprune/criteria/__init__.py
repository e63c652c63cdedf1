"""The criteria: one file and one row each."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from onnxprune.criteria import lasso, magnitude, obs, random, scored, thinet
from onnxprune.criteria.problem import Options, Problem, Selection
from onnxprune.errors import BadInput


@dataclass(frozen=True)
class Criterion:
    """A way to rank units: `select` maps a problem to a removal order; `needs_data` where it reads moments."""

    name: str
    select: Callable[[Problem, Options], Selection]
    needs_data: bool
    summary: str
    paper: str


CRITERIA: dict[str, Criterion] = {
    row.name: row
    for row in (
        Criterion("none", magnitude.select, False, "no channel goes; layers may still become products", "none"),
        Criterion("random", random.select, False, "seeded random units, the baseline", "none"),
        Criterion("magnitude", magnitude.select, False, "the norm of the filter that makes a unit", "Li et al. 2017"),
        Criterion("nisp", scored.select, False, "what the final responses owe to a unit", "Yu et al. 2018"),
        Criterion("taylor", scored.select, False, "the least first-order effect on the loss", "Molchanov et al. 2017"),
        Criterion("fisher", scored.select, False, "the least damage to the loss", "Theis et al. 2018, Liu et al. 2021"),
        Criterion("l0", scored.select, False, "gates learned under a price on what stays", "Louizos et al. 2018"),
        Criterion("hessian", scored.select, False, "the least share in the loss's curvature", "Ji, Yang, Yuan 2021"),
        Criterion("thinet", thinet.select, True, "the least joint effect on the next layer", "Luo, Wu, Lin 2017"),
        Criterion("lasso", lasso.select, True, "the exact LASSO path over units", "He, Zhang, Sun 2017"),
        Criterion("obs", obs.select, True, "the least error after refitting the rest", "Frantar, Alistarh 2022"),
    )
}


def lookup(name: str) -> Criterion:
    """The criterion called `name`; raises BadInput that offers the nearest names."""
    if name in CRITERIA:
        return CRITERIA[name]
    nearest = difflib.get_close_matches(name.lower(), CRITERIA, n=3, cutoff=0.4) or list(CRITERIA)
    raise BadInput(f"there is no method {name!r}: did you mean {' or '.join(nearest)}?")
