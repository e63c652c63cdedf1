"""The stage of fine-tuning: data, teacher, loss and optimiser are put together, and the pass is run."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxprune.calibration.images import ImageOptions
from onnxprune.config import TUNING, Config, panel
from onnxprune.course import Task
from onnxprune.errors import BadInput, ProofFailed
from onnxprune.graph import Array, values_by_name
from onnxprune.passes.fine_tune import fine_tune
from onnxprune.progress import Stages
from onnxprune.report import Tuned
from onnxprune.runtime import open_session, run
from onnxprune.torch_twin import ONE_AT_A_TIME, require_torch
from onnxprune.training.augment import Augment
from onnxprune.training.samples import Samples
from onnxprune.training.schedule import plan, split

if TYPE_CHECKING:
    from torch import Tensor

    from onnxprune.torch_twin import Twin
    from onnxprune.training.losses import Term
    from onnxprune.training.processes import Processes
    from onnxprune.training.teacher import Teacher

PROBED = 256
"""Samples that tell what an output holds."""
SAME, SAME_SHORT = 1e-3, 2e-2
"""How far the twin may be from the runtime before it is trained, over the largest value; in 16 bits."""


@dataclass(frozen=True, eq=False)
class _Sample:
    """Inputs, and what the twin makes of them."""

    feeds: dict[str, Array]
    outputs: "dict[str, Tensor]"


def tune(task: Task, epochs: float, config: Config, stages: Stages) -> tuple[ir.Model, Tuned]:
    """The model with fine-tuned constants, and what the epochs came to.

    Raises BadInput where data, loss and model do not fit, ProofFailed where the twin does not compute what the runtime
    does.
    """
    require_torch("fine-tuning")
    inner = boundaries(task) if config.match_features else []
    tuned, (told, sample) = fine_tune(task.model, lambda twin: _train(twin, task, inner, epochs, config, stages), inner)
    require_same(run(open_session(tuned), sample.feeds), sample.outputs)
    return tuned, told


def boundaries(task: Task) -> list[str]:
    """Computed values that a node with a matrix of constants reads: what one block of layers hands to the next."""
    if task.teacher is None:
        raise BadInput("--match-features needs the original model: --teacher original.onnx")
    known = values_by_name(task.teacher)
    found: dict[str, ir.Value] = {}
    for node in task.model.graph:
        read = [value for value in node.inputs if value is not None]
        if any(v.const_value is not None and len(v.const_value.shape) > 1 for v in read):
            found |= {v.name or "": v for v in read if v.producer() is not None and v.const_value is None}
    return [name for name in found if name in known]


def _train(
    twin: "Twin", task: Task, inner: Sequence[str], epochs: float, config: Config, stages: Stages
) -> tuple[Tuned, _Sample]:
    import torch

    from onnxprune.training.processes import joined

    with ONE_AT_A_TIME, joined() as together, torch.random.fork_rng(devices=[]):
        return _run(twin.to(together.device), task, inner, epochs, config, stages, together)


def _run(
    twin: "Twin",
    task: Task,
    inner: Sequence[str],
    epochs: float,
    config: Config,
    stages: Stages,
    together: "Processes",
) -> tuple[Tuned, _Sample]:
    from onnxprune.training.checkpoint import Checkpoint, fingerprint
    from onnxprune.training.loop import Loop
    from onnxprune.training.losses import make_loss
    from onnxprune.training.optimise import Optimiser
    from onnxprune.training.start import reinit
    from onnxprune.training.teacher import Teacher

    samples = task.samples
    rows, judges = split(samples.count, config.validation, samples.batch)
    order = plan(rows, samples.batch or config.train_batch, together.world, epochs, config.seed, config.warmup)
    if order.steps < 1:
        raise BadInput(f"{samples.count} training inputs do not fill one batch of each of {together.world} processes")
    learned = _learned(twin, task.frozen)
    together.agree(list(learned.values()))
    teacher = None if task.teacher is None else Teacher(task.teacher, inner, task.select, together.device)
    step = _Step(twin, samples, teacher, Augment(config.augment, samples, _image(config), config.seed), False)
    sample = step.sample(rows[: order.batch])
    require_same(run(open_session(task.model), sample.feeds), sample.outputs)
    kinds, features = _kinds(step, rows[:PROBED], order.batch, inner)
    if config.reinit:
        reinit(learned, task.fans, task.biases, config.seed)
    if teacher is not None and not (config.augment or inner or together.world > 1):
        with stages.stage("teacher"):
            teacher.keep_all(samples, order.batch)
    settled = (_settings(config), epochs, together.world, samples.description, samples.count)
    checkpoint = Checkpoint(task.checkpoint, fingerprint(learned, repr(settled)))
    loss, optimiser = make_loss(config, kinds, features), Optimiser(learned, config, together)
    step = replace(step, autocast=config.autocast)
    with stages.stage("fine-tune", order.steps * order.epochs) as tick:
        loop = Loop(step, loss, kinds, order, judges, optimiser, checkpoint, together, config, stages.tell, tick)
        history, best = loop.run(task.resume)
    tuned = Tuned(
        description=samples.description,
        samples=len(rows),
        judges=len(judges),
        labels=samples.labels is not None,
        loss={term.name: _named(term, config) for term in (*kinds, *features)},
        steps=order.steps * len(history),
        processes=together.world,
        epochs=tuple(history),
        best=best,
    )
    return tuned, replace(step, autocast=False).sample(rows[: order.batch])


def _learned(twin: "Twin", frozen: Collection[str]) -> "dict[str, Tensor]":
    for name, parameter in twin.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    found = {name: parameter for name, parameter in twin.named_parameters() if parameter.requires_grad}
    if not found:
        raise BadInput("no constant of the model can be trained")
    return found


def _image(config: Config) -> ImageOptions:
    return ImageOptions(config.image_size, config.mean, config.std, config.layout, config.channel_order)


def _settings(config: Config) -> str:
    """The options that decide where a fine-tune ends."""
    own = [name for name, of in Config.model_fields.items() if panel(of) == TUNING]
    return config.model_dump_json(include={*own, "seed", "mean", "std"})


@dataclass(frozen=True, eq=False)
class _Step:
    """Outputs, answers and labels of some samples; as they are seen in an epoch, or (None) as they are."""

    twin: "Twin"
    samples: Samples
    teacher: "Teacher | None"
    augment: Augment
    autocast: bool

    def __call__(self, rows: Array, epoch: int | None) -> "tuple[dict[str, Tensor], dict[str, Tensor], Tensor | None]":
        """What the loss takes."""
        import torch

        feeds = self.feeds(rows) if epoch is None else self.augment(self.feeds(rows), rows, epoch)
        answers = {} if self.teacher is None else self.teacher.tensors(feeds, rows)
        labels = None if self.samples.labels is None else torch.from_numpy(np.array(self.samples.labels[rows]))
        return self.outputs(feeds), answers, None if labels is None else labels.to(next(self.twin.parameters()).device)

    def feeds(self, rows: Array) -> dict[str, Array]:
        """The inputs of some samples."""
        return self.samples.feeds(rows)

    def sample(self, rows: Array) -> _Sample:
        """Inputs of some samples, and what the network makes of them, without a gradient."""
        import torch

        with torch.no_grad():
            outputs = self.outputs(feeds := self.feeds(rows))
        return _Sample(feeds, {name: tensor.cpu() for name, tensor in outputs.items()})

    def outputs(self, feeds: Mapping[str, Array]) -> "dict[str, Tensor]":
        """What the network makes of inputs."""
        import torch

        device = next(self.twin.parameters()).device
        given = {name: _on(device, array) for name, array in feeds.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
            found: dict[str, Any] = self.twin(**given)
        return found


def _on(device: Any, array: Array) -> "Tensor":
    """An input as a tensor. Images have their channels innermost, which makes a step half again as fast on a CPU."""
    import torch

    from onnxprune.torch_twin.tensors import to_tensor

    tensor = to_tensor(array).to(device)
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _kinds(step: _Step, rows: Array, batch: int, inner: Sequence[str]) -> "tuple[list[Term], list[Term]]":
    """What the outputs hold, told from answers to some samples; and the inner values that can be matched."""
    from onnxprune.training.losses import Term, terms

    parts = [rows[start : start + batch] for start in range(0, max(len(rows) - batch, 0) + 1, batch)]
    sample = step.sample(parts[0])
    if step.teacher is None:
        return terms({name: tensor.numpy() for name, tensor in sample.outputs.items()}), []
    several = [step.teacher.answers(step.feeds(part)) for part in parts]
    answers = {name: np.concatenate([np.atleast_1d(one[name]) for one in several]) for name in several[0]}
    alike = [name for name in inner if tuple(sample.outputs[name].shape) == several[0][name].shape]
    plain = [Term(term.name, "numbers", term.scale) for term in terms({name: answers[name] for name in alike})]
    return terms({name: answers[name] for name in answers if name not in inner}), plain


def require_same(wanted: Mapping[str, Array], found: "Mapping[str, Tensor]") -> None:
    """Raises ProofFailed where what torch computes is not what the runtime does."""
    for name, array in wanted.items():
        if not np.issubdtype(array.dtype, np.floating):
            continue
        apart = np.abs(found[name].double().numpy() - array.astype(np.float64)).max(initial=0.0)
        size = max(np.abs(array.astype(np.float64)).max(initial=0.0), 1e-30)
        if not apart <= (SAME if array.dtype.itemsize > 2 else SAME_SHORT) * size:
            raise ProofFailed(f"torch computes output {name!r} otherwise than onnxruntime, by {apart / size:.1e} of it")


def _named(term: "Term", config: Config) -> str:
    """What the report says of the loss of one output."""
    if config.loss != "distill":
        return config.loss
    return "squared difference" if term.kind == "numbers" else f"divergence of {term.kind}"
