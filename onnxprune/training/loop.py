"""The loop: steps, epochs, judgement, checkpoints; the best weights are what is left in the network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from onnxprune.config import Config
from onnxprune.errors import BadInput
from onnxprune.graph import Array
from onnxprune.report import EpochReport
from onnxprune.training.checkpoint import Checkpoint
from onnxprune.training.judge import Compute, Judged, judge
from onnxprune.training.losses import Loss, Term
from onnxprune.training.optimise import Optimiser
from onnxprune.training.processes import Processes
from onnxprune.training.schedule import Plan

Tell = Callable[[str], None]
CHECKPOINT_SECONDS = 60.0
TELL_SECONDS = 0.5
BEHIND, RETREAT = 1.2, 0.3
"""An epoch that ends with so much more loss than the start began with leaves so much of the usual learning rate."""


@dataclass
class _State:
    """Where the run stands: `step` of `epoch` is next, at a `share` of the rate."""

    epoch: int
    step: int
    loss: float
    best: int
    least: float
    weights: dict[str, Tensor]
    history: list[EpochReport]
    share: float = 1.0


class Loop:
    """Trains what `compute` computes and `optimiser` changes, and judges it on samples kept apart."""

    def __init__(
        self,
        compute: Compute,
        loss: Loss,
        terms: Sequence[Term],
        plan: Plan,
        judges: Array,
        optimiser: Optimiser,
        checkpoint: Checkpoint,
        together: Processes,
        config: Config,
        tell: Tell,
        tick: Callable[[], None],
    ) -> None:
        self._compute, self._loss, self._terms = compute, loss, terms
        self._plan, self._judges, self._optimiser, self._checkpoint = plan, judges, optimiser, checkpoint
        self._together, self._config, self._tell, self._tick = together, config, tell, tick
        self._saved = self._told = self._began = perf_counter()
        self._fidelity, self._done = "", 0

    def run(self, resume: bool) -> tuple[list[EpochReport], int]:
        """Train, and leave the best weights; what each epoch came to, and the epoch that was best (0: the start)."""
        state = (self._restored() if resume else None) or self._begin()
        for _ in range(state.epoch * self._plan.steps + state.step):
            self._tick()
        while state.epoch < self._plan.epochs and not self._idle(state):
            self._epoch(state)
            self._save(state)
        self._optimiser.put(state.weights)
        return state.history, state.best

    def _begin(self) -> _State:
        judged = None if self._config.reinit else self._judged()
        least = float("inf") if judged is None else judged.loss
        return _State(0, 0, 0.0, 0, least, self._optimiser.values(), [])

    def _idle(self, state: _State) -> bool:
        patience = self._config.patience
        return patience is not None and len(self._judges) > 0 and state.epoch - state.best >= patience

    def _epoch(self, state: _State) -> None:
        for rows in self._plan.batches(state.epoch, self._together.rank, state.step):
            done = state.epoch * self._plan.steps + state.step
            # User's functions may draw: each step begins with a seed of its own, so that a resumed run draws the same.
            torch.manual_seed((self._config.seed << 32) % 2**62 + done * self._together.world + self._together.rank)
            found = self._loss(*self._compute(rows, state.epoch))
            if not isfinite(value := float(found.detach())):
                raise BadInput(f"fine-tuning diverged in epoch {state.epoch + 1} (loss {value}): try a lower --lr")
            self._optimiser.step(found, self._plan.rate(done) * state.share)
            state.loss += value
            state.step += 1
            self._tick()
            self._say(state)
            if perf_counter() - self._saved > CHECKPOINT_SECONDS:
                self._save(state)
        self._close(state)

    def _close(self, state: _State) -> None:
        """The end of an epoch: judge the average of the weights, and keep them if they are the best so far."""
        with self._optimiser.averaged():
            judged = self._judged()
            if judged is None or judged.loss < state.least:
                state.best, state.weights = state.epoch + 1, self._optimiser.values()
                state.least = float("inf") if judged is None else judged.loss
        mean = self._together.total(torch.tensor(state.loss / self._plan.steps, device=self._together.device))
        report = EpochReport(
            epoch=state.epoch + 1,
            loss=float(mean) / self._together.world,
            validation=None if judged is None else judged.loss,
            same_class=None if judged is None else judged.same_class,
            difference=None if judged is None else judged.difference,
            rate=self._optimiser.rate * state.share,
        )
        state.history.append(report)
        if judged is not None and not state.best and judged.loss > BEHIND * state.least and self._config.lr is None:
            self._optimiser.restart(state.weights)  # such a rate undoes what pruning left: again, more slowly
            state.share *= RETREAT
        state.epoch, state.step, state.loss = state.epoch + 1, 0, 0.0

    def _judged(self) -> Judged | None:
        found: Judged | None = judge(
            self._judges, self._plan.batch, self._compute, self._loss, self._terms, self._together
        )
        self._fidelity = found.text() if found is not None else ""
        return found

    def _say(self, state: _State) -> None:
        self._done += 1
        if (now := perf_counter()) - self._told < TELL_SECONDS:
            return
        self._told = now
        left = (self._plan.epochs - state.epoch) * self._plan.steps - state.step
        seconds = round((now - self._began) / self._done * left)
        told = [f"loss {state.loss / state.step:.4f}", self._fidelity, f"{seconds // 60}:{seconds % 60:02d} left"]
        self._tell(", ".join(part for part in told if part))

    def _save(self, state: _State) -> None:
        self._saved = perf_counter()
        if self._together.rank == 0:
            held = {**vars(state), "history": [report.model_dump() for report in state.history]}
            self._checkpoint.write({"state": held, "optimiser": self._optimiser.state()})

    def _restored(self) -> _State | None:
        found: Mapping[str, Any] | None = self._checkpoint.read()
        if found is None:
            return None
        self._optimiser.restore(found["optimiser"])
        state = _State(**found["state"])
        state.history = [EpochReport(**report) for report in found["state"]["history"]]
        state.weights = {name: value.to(self._together.device) for name, value in state.weights.items()}
        return state
