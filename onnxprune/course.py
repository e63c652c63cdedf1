"""What a fine-tune is about: a model to train, what it learns from, and where it stands from time to time."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from glob import escape
from os import PathLike
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxprune.calibration.source import MADE_UP
from onnxprune.config import Config
from onnxprune.dependency import Keep
from onnxprune.errors import BadInput
from onnxprune.graph import Array, array_of, constants, every_node, nodes_by_name
from onnxprune.labels import Label
from onnxprune.passes.factorize_low_rank import Written
from onnxprune.passes.fold_batchnorm import fold_batchnorm
from onnxprune.passes.remove import sliced
from onnxprune.prepare import Data, Prepared
from onnxprune.torch_twin import require_torch
from onnxprune.training.samples import Samples, open_samples, spooled

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
        teacher_of(prepared) if config.match_features else prepared.came,
        samples,
        constants_of(node for node in every_node(slim) if node.name in prepared.frozen),
        lambda name, array: sliced(array, labels[name], keep),
        fans,
        {linear.bias.name or "" for linear in analysis.linears if linear.bias is not None},
        course.checkpoint,
        course.resume,
    )


def teacher_of(prepared: Prepared) -> ir.Model:
    """The original with inner values that mean what those of one name do in the pruned model.

    Where it has another head than the analysed model, the BatchNorms go into its layers that went there.
    """
    if prepared.head is None:
        return prepared.analysis.model
    left = nodes_by_name(prepared.analysis.model)
    gone = [node.inputs[0] for node in every_node(prepared.original) if node.name not in left and node.inputs]
    folded = [value.producer() for value in gone if value is not None]
    return fold_batchnorm(prepared.came, {node.name or "" for node in folded if node is not None})


def constants_of(nodes: Iterable[ir.Node]) -> set[str]:
    """The names of the constants that these nodes read."""
    read = (value for node in nodes for value in node.inputs)
    return {value.name or "" for value in read if value is not None and value.const_value is not None}
