"""L0 gates: a hard-concrete gate on each channel, learned under a price on what stays (Louizos, Welling, Kingma 2018).

The weights stay as they are while gates learn; the rebuild fits them afterwards. What is learned from is the original's
own answers, so no labels are asked for. A controller steers the price to the budget.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from onnxprune.choose import budget_of, uniform_widths
from onnxprune.config import Config
from onnxprune.costs import CostModel, cost_model
from onnxprune.criteria.scored import Scores
from onnxprune.dependency import Analysis
from onnxprune.graph import Array
from onnxprune.grouping import Group
from onnxprune.native import F64
from onnxprune.passes.gates import add_gates, readings
from onnxprune.prepare import Data, Prepared
from onnxprune.progress import Tick
from onnxprune.torch_twin import Twin
from onnxprune.torch_twin.tensors import to_array, to_tensor
from onnxprune.training.losses import distil, terms
from onnxprune.widths import runtime_block

BETA, LOW, HIGH = 2 / 3, -0.1, 1.1
"""Temperature of the gates, and the ends that the sigmoid is stretched to before it is cut off at 0 and 1."""
SHIFT = BETA * float(np.log(-LOW / HIGH))
OPEN = 0.95
"""The probability that a gate lets through at the start."""
STEPS, RATE, TEMPERATURE = 300, 0.1, 2.0
FALLING = 0.6
"""The part of the steps over which the wanted share falls from one to the budget's."""
AT_ONCE, IN_TIME = 10.0, 0.2
"""How the logarithm of the price follows the distance from the wanted share: with it, and with its sum."""


@dataclass(frozen=True, eq=False)
class _Budget:
    """What the groups' widths cost, as a share of the original, and the share that is asked for."""

    count: Callable[[F64], F64]
    full: F64
    index: Array
    target: float

    def share(self, widths: F64) -> F64:
        """For widths (…, open groups)."""
        every = np.broadcast_to(self.full, (*widths.shape[:-1], self.full.size)).copy()
        every[..., self.index] = widths
        return np.asarray(self.count(every) / float(self.count(self.full)))

    def slope(self, widths: F64) -> F64:
        """What one more channel of each group adds to the share."""
        step = np.eye(widths.size) / 2
        return np.asarray(self.share(widths + step) - self.share(widths - step))


def learn_gates(prepared: Prepared, data: Data, config: Config, tick: Tick) -> Scores:
    """log α of each block's gate, by group: what is above an even threshold is what the gates would keep.

    Raises BadInput where the model has no output with a gradient.
    """
    groups, analysis = prepared.groups, prepared.analysis
    reads = readings(analysis, np.concatenate([group.units for group in groups]))
    gated = add_gates(analysis, reads)
    twin = Twin(gated.model)
    twin.requires_grad_(False)
    budget = _budget(prepared, data, config)
    draws = torch.Generator().manual_seed(config.seed)
    start = float(np.log(OPEN / (1 - OPEN)))
    alphas = [(start + 0.01 * torch.randn(g.width, generator=draws)).requires_grad_() for g in groups]
    optimiser = torch.optim.Adam(alphas, lr=RATE)
    owed, share = 0.0, 1.0
    for step, feeds in zip(range(STEPS), _endless(data), strict=False):
        given = {name: to_tensor(array) for name, array in feeds.items()}
        ones = torch.ones(1, analysis.units + 1)
        with torch.no_grad():
            answers = twin(**given, **{gated.name: ones})
        z = [_drawn(alpha, draws) for alpha in alphas]
        outputs = twin(**given, **{gated.name: _by_unit(groups, z, ones)})
        stays = [torch.sigmoid(alpha - SHIFT) for alpha in alphas]
        widths = np.array([float(p.detach().sum()) for p in stays])
        share = float(budget.share(widths))
        slopes = budget.slope(widths).tolist()
        cost = torch.stack([slope * p.sum() for slope, p in zip(slopes, stays, strict=True)]).sum()
        found = terms({name: to_array(y) for name, y in answers.items() if torch.is_tensor(y)})
        wanted = max(budget.target, 1 - (1 - budget.target) * (step + 1) / (FALLING * STEPS))
        owed += IN_TIME * (share - wanted)
        price = float(np.exp(owed + AT_ONCE * (share - wanted)))
        loss = distil(found, TEMPERATURE)(outputs, answers, None) + price * cost
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        tick()
    return Scores(_logs(groups, alphas), (_told(alphas, share, budget.target),))


def _budget(prepared: Prepared, data: Data, config: Config) -> _Budget:
    costs, analysis = cost_model(prepared.analysis, prepared.original), prepared.analysis
    kind, share = budget_of(config, data.source.synthetic)
    count = costs.params if kind == "params" else costs.macs
    place = {id(group): i for i, group in enumerate(analysis.groups)}
    index = np.array([place[id(group)] for group in prepared.groups], np.intp)
    budget = _Budget(count, costs.full.astype(np.float64), index, share)
    if kind in ("macs", "params"):
        return budget
    return _Budget(count, budget.full, index, _uniform(analysis, prepared.groups, costs, data, config, budget))


def _uniform(
    analysis: Analysis, groups: Sequence[Group], costs: CostModel, data: Data, config: Config, budget: _Budget
) -> float:
    """The share that stays where every group loses what is asked for."""
    align = runtime_block() if config.align == "auto" else config.align
    widths = uniform_widths(analysis, groups, costs, data.source.synthetic, config, align)
    return float(budget.share(widths.astype(np.float64)))


def _endless(data: Data) -> Iterator[Mapping[str, Array]]:
    while True:
        yield from data.source.batches()


def _drawn(alpha: Tensor, draws: torch.Generator) -> Tensor:
    """One draw of each gate; its gradient goes through the draw."""
    u = torch.rand(alpha.shape, generator=draws).clamp(1e-6, 1 - 1e-6)
    s = torch.sigmoid((torch.log(u) - torch.log1p(-u) + alpha) / BETA)
    return (s * (HIGH - LOW) + LOW).clamp(0, 1)


def _by_unit(groups: Sequence[Group], z: Sequence[Tensor], ones: Tensor) -> Tensor:
    """(1, units + 1): a unit in blocks of several groups stays where all of them do."""
    gates = ones
    for group, own in zip(groups, z, strict=True):
        member = torch.from_numpy(group.member.astype(np.int64))
        units = torch.from_numpy(group.units.astype(np.int64))
        gates = gates * ones.index_copy(1, units, own[member][None])
    return gates


def _logs(groups: Sequence[Group], alphas: Sequence[Tensor]) -> dict[str, F64]:
    return {g.name: a.detach().numpy().astype(np.float64) for g, a in zip(groups, alphas, strict=True)}


def _told(alphas: Sequence[Tensor], share: float, target: float) -> str:
    """What the report says: where the gates ended, and how many of them are neither open nor closed."""
    z = torch.cat([(torch.sigmoid(a.detach()) * (HIGH - LOW) + LOW).clamp(0, 1) for a in alphas])
    shut, between = int((z == 0).sum()), int(((z > 0) & (z < 1)).sum())
    return (
        f"L0 gates: after {STEPS} steps {share:.1%} of the budget's count were expected to stay, asked for were "
        f"{target:.1%}; {shut} of {z.numel()} gates are shut, {between} between shut and open."
    )
