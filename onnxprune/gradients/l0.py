"""L0 gates: a hard-concrete gate on each channel, learned under a price on what stays (Louizos, Welling, Kingma 2018).

The weights stay as they are while gates learn; the rebuild fits them afterwards, or else what half-open gates let
through goes into the weights behind them. What is learned from is the original's own answers, so no labels are asked
for. A controller steers the price to the budget.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from onnxprune.allocate import Cost
from onnxprune.choose import budget_of, uniform_widths
from onnxprune.config import Config
from onnxprune.counting import Counts
from onnxprune.criteria.scored import Scores
from onnxprune.graph import Array
from onnxprune.grouping import Group
from onnxprune.native import F64
from onnxprune.passes.gates import Gated, add_gates, readings
from onnxprune.prepare import Data, Prepared
from onnxprune.progress import Tick
from onnxprune.torch_twin import Twin
from onnxprune.torch_twin.tensors import to_array, to_tensor
from onnxprune.training.losses import Loss, distil, terms
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
    """The share of what is counted that stays at some widths of the gated groups, and the share that is asked for."""

    share: Cost
    target: float

    def slope(self, widths: F64) -> F64:
        """What one more channel of each group adds to the share."""
        step = np.eye(widths.size) / 2
        return np.asarray(self.share(widths + step) - self.share(widths - step))


@dataclass(frozen=True, eq=False)
class _Gates:
    """log α of each block's gate, by group; where the draws come from; and how many units there are, and one more."""

    groups: Sequence[Group]
    alphas: Sequence[Tensor]
    draws: torch.Generator
    width: int

    def drawn(self, ones: Tensor) -> Tensor:
        """(1, units + 1) one draw of all gates: a unit in blocks of several groups stays where all of them do."""
        gates = ones
        for group, alpha in zip(self.groups, self.alphas, strict=True):
            member, units = (torch.from_numpy(x.astype(np.int64)) for x in (group.member, group.units))
            gates = gates * ones.index_copy(1, units, _drawn(alpha, self.draws)[member][None])
        return gates

    def price(self, budget: _Budget) -> tuple[float, Tensor]:
        """The share that is expected to stay, and the same as its linear part, which has a gradient."""
        stays = [torch.sigmoid(alpha - SHIFT) for alpha in self.alphas]
        widths = np.array([float(p.detach().sum()) for p in stays])
        slopes = budget.slope(widths).tolist()
        cost = torch.stack([slope * p.sum() for slope, p in zip(slopes, stays, strict=True)]).sum()
        return float(budget.share(widths)), cost


def learn_gates(prepared: Prepared, data: Data, config: Config, tick: Tick) -> Scores:
    """log α of each block's gate, by group: what is above an even threshold is what the gates would keep.

    Groups in branches that no input takes have no gate, for nothing tells what they are worth.

    Raises BadInput where the model has no output with a gradient.
    """
    groups = [group for group in prepared.groups if not prepared.analysis.is_idle(group)]
    if not groups:
        return Scores({})
    gated = add_gates(prepared.analysis, readings(prepared.analysis, np.concatenate([group.units for group in groups])))
    twin = Twin(gated.model)
    twin.requires_grad_(False)
    draws, start = torch.Generator().manual_seed(config.seed), float(np.log(OPEN / (1 - OPEN)))
    alphas = [(start + 0.01 * torch.randn(g.width, generator=draws)).requires_grad_() for g in groups]
    budget = _budget(prepared, groups, data, config)
    share = _learn(twin, gated, _Gates(groups, alphas, draws, prepared.analysis.units + 1), budget, data, tick)
    found = {g.name: a.detach().numpy().astype(np.float64) for g, a in zip(groups, alphas, strict=True)}
    values = {g.name: _at_rest(a).numpy().astype(np.float64) for g, a in zip(groups, alphas, strict=True)}
    return Scores(found, (_told(alphas, share, budget.target),), values)


def _learn(twin: Twin, gated: Gated, gates: _Gates, budget: _Budget, data: Data, tick: Tick) -> float:
    """Move the gates toward the budget; returns the share that is expected to stay in the end."""
    optimiser = torch.optim.Adam(gates.alphas, lr=RATE)
    loss: Loss | None = None
    owed, share = 0.0, 1.0
    for step, feeds in zip(range(STEPS), _endless(data), strict=False):
        given = {name: to_tensor(array) for name, array in feeds.items()}
        ones = torch.ones(1, gates.width)
        with torch.no_grad():
            answers = twin(**given, **{gated.name: ones})
        loss = loss or _toward(answers)
        share, cost = gates.price(budget)
        wanted = max(budget.target, 1 - (1 - budget.target) * (step + 1) / (FALLING * STEPS))
        owed += IN_TIME * (share - wanted)
        price = float(np.exp(owed + AT_ONCE * (share - wanted)))
        outputs = twin(**given, **{gated.name: gates.drawn(ones)})
        optimiser.zero_grad()
        (loss(outputs, answers, None) + price * cost).backward()
        optimiser.step()
        tick()
    return share


def _toward(answers: Mapping[str, Tensor]) -> Loss:
    """The loss that compares with such answers."""
    return distil(terms({name: to_array(y) for name, y in answers.items() if torch.is_tensor(y)}), TEMPERATURE)


def _budget(prepared: Prepared, groups: Sequence[Group], data: Data, config: Config) -> _Budget:
    costs, analysis = prepared.costs, prepared.analysis
    kind, target = budget_of(config, data.source.synthetic)
    share = Counts(analysis, groups, costs).share("params" if kind == "params" else "macs")
    if kind not in ("macs", "params"):  # the share that stays where every group loses what is asked for
        align = runtime_block() if config.align == "auto" else config.align
        widths = uniform_widths(analysis, groups, costs, data.source.synthetic, config, align)
        target = float(share(widths))
    return _Budget(share, target)


def _endless(data: Data) -> Iterator[Mapping[str, Array]]:
    while True:
        yield from data.source.batches()


def _drawn(alpha: Tensor, draws: torch.Generator) -> Tensor:
    """One draw of each gate; its gradient goes through the draw."""
    u = torch.rand(alpha.shape, generator=draws).clamp(1e-6, 1 - 1e-6)
    s = torch.sigmoid((torch.log(u) - torch.log1p(-u) + alpha) / BETA)
    return (s * (HIGH - LOW) + LOW).clamp(0, 1)


def _at_rest(alpha: Tensor) -> Tensor:
    """The gates' values when nothing is drawn: the paper's at test time."""
    return (torch.sigmoid(alpha.detach()) * (HIGH - LOW) + LOW).clamp(0, 1)


def _told(alphas: Sequence[Tensor], share: float, target: float) -> str:
    """What the report says: where the gates ended, and how many of them are neither open nor closed."""
    z = torch.cat([_at_rest(alpha) for alpha in alphas])
    shut, between = int((z == 0).sum()), int(((z > 0) & (z < 1)).sum())
    return (
        f"L0 gates: after {STEPS} steps {share:.1%} of the budget's count were expected to stay, asked for were "
        f"{target:.1%}; {shut} of {z.numel()} gates are shut, {between} between shut and open."
    )
