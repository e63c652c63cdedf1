"""`finetune`: train a model as it is, toward a teacher or labels; only the values of its constants change."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxprune.config import Config, make_config
from onnxprune.course import Task, constants_of
from onnxprune.errors import BadInput
from onnxprune.fidelity import compare
from onnxprune.graph import every_node
from onnxprune.measure import open_judge
from onnxprune.model_io import ModelSource, like, load
from onnxprune.prepare import matches, names_of, open_data, prepare, require_matches
from onnxprune.progress import Progress, Silent, Stages
from onnxprune.report import Accuracy, Fidelity, Finetuned
from onnxprune.torch_twin import require_torch
from onnxprune.training.samples import Part, Samples, open_samples
from onnxprune.training.schedule import split
from onnxprune.tuning import tune
from onnxprune.version import __version__

JUDGED = 64
"""Training inputs to compare with, where none were kept apart."""


def finetune(
    model: ModelSource,
    teacher: ModelSource | None = None,
    *,
    train: object = None,
    epochs: int = 2,
    eval: object = None,
    metric: str | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    config: Config | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> tuple[Any, Finetuned]:
    """Train a model for some epochs toward `teacher`, or with `loss="ce"` or `"mse"` toward labels.

    `train` is what `calib` of `compress` may be, with labels `y` where there are any, or "module:function" that returns
    an iterable of batches; None for synthetic inputs. Returns the model, of the kind that was given, and the report.

    Raises BadInput (model, data or option unusable, torch missing), or ProofFailed; the model given is never changed.
    """
    require_torch("fine-tuning")
    base = config.model_dump(exclude_unset=True) if config is not None else {}
    settings, stages = make_config(**{**base, **options}), Stages(progress or Silent())
    with stages.stage("analyse"):
        loaded = load(model)
        original = None if teacher is None else _alike(load(teacher).model, loaded.model)
        judge = open_judge(loaded.model, eval, metric, settings)
        samples = open_samples(train, loaded.model, settings)
        task = _task(loaded.model, original, samples, settings)
    tuned, told = tune(replace(task, checkpoint=checkpoint, resume=resume), epochs, settings, stages)
    with stages.stage("measure"):
        fidelity = None if original is None else _fidelity(original, tuned, samples, settings)
        judged = None
        if judge is not None:
            judged = Accuracy(metric=judge.name, before=judge.value(loaded.model), after=judge.value(tuned))
    report = Finetuned(
        onnxprune=__version__,
        model=str(loaded.path or loaded.model.graph.name or "model"),
        teacher=str(teacher) if isinstance(teacher, str | Path) else None,
        config=settings,
        tuned=told,
        fidelity=fidelity,
        accuracy=judged,
        seconds=stages.seconds,
    )
    return like(tuned, loaded), report


def _alike(teacher: ir.Model, model: ir.Model) -> ir.Model:
    """The teacher. Raises BadInput where its inputs or outputs have other names than the model's."""
    for what in ("inputs", "outputs"):
        names = [[v.name for v in getattr(m.graph, what) if not v.is_initializer()] for m in (teacher, model)]
        if sorted(map(str, names[0])) != sorted(map(str, names[1])):
            raise BadInput(f"--teacher: its {what} are {names[0]}, those of the model {names[1]}")
    return teacher


def _task(model: ir.Model, teacher: ir.Model | None, samples: Samples, config: Config) -> Task:
    if teacher is None and config.loss == "distill":
        raise BadInput("--loss distill needs the original model: --teacher original.onnx")
    if teacher is None and samples.labels is None:
        raise BadInput(f"--loss {config.loss} needs labels (y in the .npz of --train) or --teacher original.onnx")
    require_matches((model,), config)
    kept = [node for node in every_node(model) if config.keep and matches(names_of(node), config.keep)]
    frozen = constants_of(kept)
    if not config.reinit:
        return Task(model, teacher, samples, frozen)
    data = open_data(model, dict(samples.feeds(np.arange(samples.batch or 1))), config, matched=False)
    linears = prepare(model, data, config, fold=False).analysis.linears
    fans = {x.weight.name or "": x.features.shape[1] for x in linears}
    return Task(
        model, teacher, samples, frozen, fans=fans, biases={x.bias.name or "" for x in linears if x.bias is not None}
    )


def _fidelity(teacher: ir.Model, model: ir.Model, samples: Samples, config: Config) -> Fidelity:
    rows, judges = split(samples.count, config.validation, samples.batch)
    size = samples.batch or 1
    shown = judges if len(judges) else rows[: max(size, min(JUDGED, len(rows)) // size * size)]
    return compare(teacher, model, Part(samples, shown, config.batch_size), held_out=len(judges) > 0)
