"""The stage of fine-tuning: data, teacher, loss and optimiser are put together, and the pass is run."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from glob import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxprune.calibration.images import ImageOptions
from onnxprune.calibration.source import MADE_UP
from onnxprune.config import TUNING, Config, panel
from onnxprune.dependency import Keep
from onnxprune.errors import BadInput
from onnxprune.graph import Array, array_of, constants, every_node, values_by_name
from onnxprune.labels import Label
from onnxprune.passes.factorize_low_rank import Written
from onnxprune.passes.fine_tune import fine_tune
from onnxprune.passes.remove import sliced
from onnxprune.prepare import Data, Prepared
from onnxprune.progress import Stages
from onnxprune.report import Tuned
from onnxprune.runtime import open_session, run
from onnxprune.torch_twin import require_torch
from onnxprune.training.augment import Augment
from onnxprune.training.samples import Samples, open_samples, spooled
from onnxprune.training.schedule import plan, split
from onnxprune.verify import require_same

if TYPE_CHECKING:
    from torch import Tensor

    from onnxprune.torch_twin import Twin
    from onnxprune.training.losses import Term
    from onnxprune.training.processes import Processes
    from onnxprune.training.teacher import Teacher

PROBED = 256
"""Samples that tell what an output holds."""

Select = Callable[[str, Array], Array]


@dataclass(frozen=True, eq=False)
class Task:
    """A model to train, and what it is to learn from.

    `teacher` is None where labels alone teach; `select` takes from its inner values the channels that the model still
    has. `frozen` names constants that keep their values; `fans` and `biases` tell which are drawn anew by `--reinit`.
    """

    model: ir.Model
    teacher: ir.Model | None
    samples: Samples
    frozen: Collection[str] = ()
    select: Select = lambda name, array: array
    fans: Mapping[str, int] = field(default_factory=dict)
    biases: Collection[str] = ()
    checkpoint: Path | None = None
    resume: bool = False


@dataclass(frozen=True, eq=False)
class _Sample:
    """Inputs, and what the twin makes of them."""

    feeds: dict[str, Array]
    outputs: "dict[str, Tensor]"


@dataclass(frozen=True, eq=False)
class Course:
    """What a run is told of its fine-tune beside the options: the inputs, and where it stands from time to time."""

    train: object = None
    checkpoint: Path | None = None
    resume: bool = False

    def begin(self) -> None:
        """Where a run starts anew, its rounds must not go on from what an earlier one left."""
        if self.checkpoint is not None and not self.resume:
            forget(self.checkpoint)

    def before(self, number: int) -> "Course":
        """The same for a round before the last, which has a checkpoint of its own."""
        path = self.checkpoint
        return replace(self, checkpoint=None if path is None else path.with_name(f"{path.name}.{number}"))

    def opened(self, model: ir.Model, calib: object, data: Data, config: Config) -> Samples:
        """The training inputs: those given, else all there are to calibrate with; none that the report judges with.

        Raises BadInput where they or torch are missing.
        """
        require_torch("fine-tuning")
        if self.resume and self.checkpoint is None:
            raise BadInput("--resume needs to know where the checkpoint is: give the output, or checkpoint=...")
        apart = data.apart if data.held_out else None
        if self.train is not None:
            return open_samples(self.train, model, config, apart)
        path = isinstance(calib, str | PathLike) and str(calib) not in MADE_UP
        again = path or isinstance(calib, np.ndarray | Mapping)
        return open_samples(calib, model, config, apart) if again else spooled(data.source, data.specs, None, apart)


def forget(checkpoint: Path) -> None:
    """Remove a checkpoint, and those of the rounds before the last."""
    for path in (checkpoint, *checkpoint.parent.glob(f"{escape(checkpoint.name)}.[0-9]*")):
        path.unlink(missing_ok=True)


def pruned(
    prepared: Prepared,
    slim: ir.Model,
    keep: Keep,
    written: Sequence[Written],
    samples: Samples,
    course: Course,
    config: Config,
) -> Task:
    """The task of training a pruned model toward the original."""
    analysis = prepared.analysis
    labels: dict[str, list[Label]] = defaultdict(list)
    for slot in analysis.slots:
        if slot.reader is None:
            labels[slot.value.name or ""].append(slot.label)
    weights = {value.name: value for value in constants(slim)}
    fans = {
        name: array_of(weights[name]).size // max(int(keep[linear.outputs].sum()), 1)
        for linear in analysis.linears
        if (name := linear.weight.name or "") in weights
    }
    for one in written:
        fans |= {one.first: array_of(weights[one.first]).size // one.rank, one.second: one.rank}
    return Task(
        slim,
        analysis.model if config.match_features else prepared.original,
        samples,
        constants_of(node for node in every_node(slim) if node.name in prepared.frozen),
        lambda name, array: sliced(array, labels[name], keep),
        fans,
        {linear.bias.name or "" for linear in analysis.linears if linear.bias is not None},
        course.checkpoint,
        course.resume,
    )


def constants_of(nodes: Iterable[ir.Node]) -> set[str]:
    """The names of the constants that these nodes read."""
    read = (value for node in nodes for value in node.inputs)
    return {value.name or "" for value in read if value is not None and value.const_value is not None}


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

    with joined() as together, torch.random.fork_rng(devices=[]):
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


def _named(term: "Term", config: Config) -> str:
    """What the report says of the loss of one output."""
    if config.loss != "distill":
        return config.loss
    return "squared difference" if term.kind == "numbers" else f"divergence of {term.kind}"
