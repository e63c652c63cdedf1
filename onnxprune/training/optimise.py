"""The optimiser of a network's weights: master copies, decay, clipping, and the average of weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from onnxprune.config import Config
from onnxprune.training.processes import Processes

RATES = {"adamw": 1e-3, "sgd": 5e-3}
MOMENTUM = 0.9
SHORT = (torch.float16, torch.bfloat16)


class Optimiser:
    """Changes `parameters` (by name) step by step, by `rate` at most. What has 16 bits is learned in 32 beside it.

    The average of weights (EMA) begins as their mean, so that a short run forgets its start as well.
    """

    def __init__(self, parameters: Mapping[str, Tensor], config: Config, together: Processes) -> None:
        self._stored = dict(parameters)
        self._learned = {
            name: p.detach().float().requires_grad_() if p.dtype in SHORT else p for name, p in parameters.items()
        }
        self._together, self._clip, self._decay = together, config.clip, config.ema
        self.rate = config.lr or RATES[config.optimizer]
        self._averages = {name: p.detach().clone() for name, p in self._learned.items()} if config.ema else {}
        self._steps = 0
        groups = [
            {"params": [p for p in self._learned.values() if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in self._learned.values() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self._torch: torch.optim.Optimizer = (
            torch.optim.AdamW(groups, lr=self.rate)
            if config.optimizer == "adamw"
            else torch.optim.SGD(groups, lr=self.rate, momentum=MOMENTUM, nesterov=True)
        )

    def step(self, loss: Tensor, share: float) -> None:
        """One step down the gradient of `loss`, at a share of the largest learning rate."""
        for parameter in self._stored.values():
            parameter.grad = None
        loss.backward()
        self._together.average(list(self._stored.values()))
        for name, learned in self._learned.items():
            grad = self._stored[name].grad
            learned.grad = None if grad is None else grad.to(learned.dtype)
        if self._clip:
            torch.nn.utils.clip_grad_norm_(list(self._learned.values()), self._clip)
        for group in self._torch.param_groups:
            group["lr"] = self.rate * share
        self._torch.step()
        self._steps += 1
        self._follow()

    def _follow(self) -> None:
        self.put({name: learned for name, learned in self._learned.items() if self._stored[name] is not learned})
        stays = min(self._decay, self._steps / (self._steps + 10))
        for name, average in self._averages.items():
            average.lerp_(self._learned[name].detach(), 1 - stays)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The network with the average of its weights, where one is kept."""
        own = {name: self._stored[name].detach().clone() for name in self._averages}
        self.put(self._averages)
        try:
            yield
        finally:
            self.put(own)

    def values(self) -> dict[str, Tensor]:
        """Copies of the weights that the network has now."""
        return {name: p.detach().clone() for name, p in self._stored.items()}

    def put(self, values: Mapping[str, Tensor]) -> None:
        """Give the network these weights; the optimiser does not learn from them."""
        with torch.no_grad():
            for name, value in values.items():
                self._stored[name].copy_(value)

    def restart(self, values: Mapping[str, Tensor]) -> None:
        """Begin anew, from these weights."""
        self.put(values)
        with torch.no_grad():
            for name, value in values.items():
                self._learned[name].copy_(value)
        self._averages = {name: self._learned[name].detach().clone() for name in self._averages}
        self._torch.state.clear()
        self._steps = 0

    def state(self) -> dict[str, Any]:
        """All that the next step depends on."""
        learned = {name: p.detach().clone() for name, p in self._learned.items()}
        return {"learned": learned, "averages": self._averages, "torch": self._torch.state_dict(), "steps": self._steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Be as `state` was."""
        self.put(state["learned"])
        with torch.no_grad():
            for name, value in state["learned"].items():
                self._learned[name].copy_(value)
            for name, value in state["averages"].items():
                self._averages[name].copy_(value)
        self._torch.load_state_dict(state["torch"])
        self._steps = state["steps"]
