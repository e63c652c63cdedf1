"""A convolution solved for a weight that two make together, of either kind (docs/methods.md, *Convolutions*)."""

import numpy as np

from onnxprune.clipping import alternate
from onnxprune.low_rank.factors import Factors, Form, Responses, by_singular_values
from onnxprune.low_rank.spatial import Sides, sides_by_singular_values
from onnxprune.native import F64
from onnxprune.solve import Fit


def by_responses(
    fit: Fit | None, prior: F64, bias: F64, form: Form, kernel: tuple[int, ...], clipped: bool
) -> tuple[Factors, F64]:
    """What gives the original's outputs best, and its bias; what is nearest to the weight where no data tell more.

    Where a Relu clips the outputs, by turns with the slack that it leaves, as in any layer that is solved.
    """
    if fit is None:
        return nearest(prior, form, kernel), bias
    moments, factor, last = fit.moments, fit.factor, [_product(fit, form, kernel)]
    start = last[0].product(), fit.intercept(last[0].product())
    if not clipped or moments is None or factor is None:
        return last[0], start[1]
    gram = moments.gram.astype(np.float64)
    sides = Sides(fit.weight, gram, kernel)

    def refit(cross: F64) -> F64:
        weight = factor.solve(cross, prior)
        if form.kind == "channel":
            last[0] = Responses(weight, fit.spread(weight)).factors(form.rank)
        else:
            last[0] = sides.improved(last[0], weight @ gram)
        return last[0].product()

    _, shift = alternate(fit.rows, moments, refit, start)
    return last[0], shift


def nearest(weight: F64, form: Form, kernel: tuple[int, ...]) -> Factors:
    """The product nearest to a weight (n, C·taps), whatever its inputs."""
    if form.kind == "channel":
        return by_singular_values(weight, form.rank)
    return sides_by_singular_values(weight, kernel, form.rank)


def _product(fit: Fit, form: Form, kernel: tuple[int, ...]) -> Factors:
    if form.kind == "channel":
        return Responses(fit.weight, fit.spread(fit.weight)).factors(form.rank)
    if fit.moments is None:
        return nearest(fit.weight, form, kernel)
    return Sides(fit.weight, fit.moments.gram.astype(np.float64), kernel).factors(form.rank)
