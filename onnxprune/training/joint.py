"""Some constants of a network trained together toward given answers, batch by batch, at the largest rate that gains."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from onnxprune.calibration.tape import Tape
from onnxprune.config import Config
from onnxprune.errors import BadInput
from onnxprune.graph import Array
from onnxprune.report import EpochReport
from onnxprune.torch_twin import Twin
from onnxprune.torch_twin.tensors import to_tensor
from onnxprune.training.checkpoint import Checkpoint
from onnxprune.training.judge import judge
from onnxprune.training.loop import Loop
from onnxprune.training.losses import Named, Term
from onnxprune.training.optimise import SHORT, Optimiser
from onnxprune.training.processes import Processes
from onnxprune.training.schedule import plan

RATES = (3e-3, 1e-3, 3e-4, 1e-4)
"""Learning rates, one run after the other: large ones gain most, and too large ones nothing."""
GAIN = 0.98
"""A run that leaves more of the loss than this is the last, once one left less: too large a rate gains little too."""
EPOCHS, STEPS = 20, 600
"""The length of a run, unless told otherwise: so many epochs, or as many as make so many steps."""
PATIENCE = 3
"""A run ends where so large a part of it, one in three, brought nothing."""


@dataclass(frozen=True)
class Trained:
    """The loss on the batches that judge before any step; the epochs of all runs, which was best, and its rate."""

    before: float
    rate: float
    epochs: tuple[EpochReport, ...]
    best: int

    @property
    def after(self) -> float:
        """The loss of what was kept."""
        return next(
            (e.validation for e in self.epochs if e.epoch == self.best and e.validation is not None), self.before
        )

    def followed(self, rate: float, epochs: Sequence[EpochReport], best: int) -> "Trained":
        """With another run behind these, which began where the best of them ended."""
        done = len(self.epochs)
        behind = (epoch.model_copy(update={"epoch": done + epoch.epoch}) for epoch in epochs)
        won = (rate, done + best) if best else (self.rate, self.best)
        return Trained(self.before, won[0], (*self.epochs, *behind), won[1])


@dataclass(frozen=True, eq=False)
class Joint:
    """A network, its constants that learn, and the batches: what it reads (`given`) and what it should answer.

    `rows` are the numbers of the batches that it learns from, `judges` of those that tell which weights are kept.
    """

    twin: Twin
    learned: Mapping[str, Tensor]
    given: Mapping[str, Tape]
    answers: Mapping[str, Tape]
    terms: Sequence[Term]
    rows: Array
    judges: Array
    together: Processes

    def __call__(self, rows: Array, epoch: int | None) -> tuple[Named, Named, Tensor | None]:
        """Outputs and answers of the one batch in `rows`."""
        number = int(rows[0])
        return self.twin(**self._tensors(self.given, number)), self._tensors(self.answers, number), None

    def loss(self, outputs: Named, answers: Named, labels: Tensor | None = None) -> Tensor:
        """The mean over the outputs of their squared error, over the variance of the answers."""
        apart = [(_wide(outputs[t.name]) - _wide(answers[t.name])).square().mean() / t.scale for t in self.terms]
        return torch.stack(apart).mean()

    def can_learn(self) -> bool:
        """Whether what learns has a gradient: an operator that torch does not know has none."""
        outputs, answers, _ = self(self.rows, None)
        return bool(self.loss(outputs, answers).requires_grad)

    def epochs(self, asked: int | None) -> int:
        """How long a run is."""
        return asked or max(EPOCHS, -(-STEPS // len(self.rows)))

    def train(self, epochs: int, seed: int, tell: Callable[[str], None], tick: Callable[[], None]) -> Trained:
        """Leave the best weights in the network: the start, if no epoch is better on the batches that judge."""
        judged = judge(self.judges, 1, self, self.loss, self.terms, self.together)
        assert judged is not None
        told = Trained(judged.loss, RATES[0], (), 0)
        for rate in RATES:
            least = told.after
            told = told.followed(rate, *self._run(rate, epochs, seed, tell, tick))
            if told.after > GAIN * least and least < GAIN * told.before:
                break
        return told

    def _run(
        self, rate: float, epochs: int, seed: int, tell: Callable[[str], None], tick: Callable[[], None]
    ) -> tuple[list[EpochReport], int]:
        """Train from where the weights stand; no epochs where a step leads beyond all numbers."""
        config = Config(lr=rate, seed=seed, patience=max(epochs // PATIENCE, 1))
        optimiser = Optimiser(self.learned, config, self.together)
        start, order = optimiser.values(), plan(self.rows, 1, 1, epochs, seed, config.warmup)
        none, alone = Checkpoint(None, ""), self.together
        loop = Loop(self, self.loss, self.terms, order, self.judges, optimiser, none, alone, config, tell, tick)
        try:
            return loop.run(False)
        except BadInput:  # it diverged
            optimiser.put(start)
            return [], 0

    def _tensors(self, held: Mapping[str, Tape], number: int) -> dict[str, Tensor]:
        return {name: to_tensor(tape[number]).to(self.together.device) for name, tape in held.items()}


def _wide(tensor: Tensor) -> Tensor:
    """Squares of 16 bits overflow."""
    return tensor.float() if tensor.dtype in SHORT else tensor
