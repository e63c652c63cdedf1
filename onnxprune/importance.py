"""Scores of units from the whole graph, for the criteria that cannot judge a group by itself."""

from collections.abc import Callable

from onnxprune.config import Config
from onnxprune.criteria import fisher, taylor
from onnxprune.criteria.scored import Scores
from onnxprune.gradients.ablation import ablate
from onnxprune.nisp import nisp
from onnxprune.prepare import Data, Prepared
from onnxprune.progress import Tick
from onnxprune.torch_twin import require_torch

Scorer = Callable[[Prepared, Data, Config, Tick], Scores]
"""Scores groups; one without any is ranked by magnitude."""


def _nisp(prepared: Prepared, data: Data, config: Config, tick: Tick) -> Scores:
    return Scores(nisp(prepared, data, config, tick))


def _taylor(prepared: Prepared, data: Data, config: Config, tick: Tick) -> Scores:
    require_torch("--method taylor")
    from onnxprune.gradients.through_gates import score_gates

    return score_gates(prepared, data, config, tick, taylor.effect)


def _fisher(prepared: Prepared, data: Data, config: Config, tick: Tick) -> Scores:
    if config.ablation:
        return ablate(prepared, data, config, tick)
    require_torch("--method fisher without --ablation")
    from onnxprune.gradients.through_gates import score_gates

    return score_gates(prepared, data, config, tick, fisher.damage)


def _hessian(prepared: Prepared, data: Data, config: Config, tick: Tick) -> Scores:
    require_torch("--method hessian")
    from onnxprune.gradients.second_order import score_groups

    return score_groups(prepared, data, config, tick)


def _l0(prepared: Prepared, data: Data, config: Config, tick: Tick) -> Scores:
    require_torch("--method l0")
    from onnxprune.gradients.l0 import learn_gates

    return learn_gates(prepared, data, config, tick)


SCORERS: dict[str, Scorer] = {
    "nisp": _nisp,
    "taylor": _taylor,
    "fisher": _fisher,
    "hessian": _hessian,
    "l0": _l0,
}
"""By criterion; each of them has `criteria.scored.select` in the table of criteria."""
