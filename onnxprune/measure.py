"""The last stage: accuracy, fidelity and latency of the pruned model against the original."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxprune.bench import bench
from onnxprune.calibration.source import ImageOptions, Source, input_specs, load_labelled
from onnxprune.config import Config
from onnxprune.errors import BadInput, BudgetNotMet
from onnxprune.fidelity import Metric, accuracy, compare, load_metric
from onnxprune.graph import Array
from onnxprune.prepare import Data
from onnxprune.report import Accuracy, Fidelity, Latency
from onnxprune.runtime import open_session

BENCH_SECONDS = 0.5


@dataclass(frozen=True, eq=False)
class Judge:
    """How the user judges: labelled inputs, or a metric of their own."""

    name: str
    labelled: tuple[Source, Array] | None
    metric: Metric | None

    def value(self, model: ir.Model) -> float:
        """The accuracy, or what the metric returns."""
        if self.labelled is not None:
            return accuracy(model, *self.labelled)
        assert self.metric is not None
        session = open_session(model, lent=False)
        try:
            value = float(self.metric(session))
        except Exception as error:  # the user's own code
            raise BadInput(f"--metric {self.name} failed: {type(error).__name__}: {error}") from error
        if not math.isfinite(value):
            raise BadInput(f"--metric {self.name} returned {value}, which says nothing about the model")
        return value


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured; None where it was not asked for."""

    fidelity: Fidelity | None = None
    accuracy: Accuracy | None = None
    latency: tuple[Latency, ...] = ()


def open_judge(model: ir.Model, labelled: object, metric: str | None, config: Config) -> Judge | None:
    """Open `--eval` or `--metric` before any work is done.

    Raises BadInput where they cannot be used, `--max-drop` has nothing to go by, or a provider does not start.
    """
    if config.providers and config.measure:
        open_session(model, providers=config.providers)
    if labelled is not None and metric is not None:
        raise BadInput("give --eval or --metric, not both")
    if config.max_drop is not None and labelled is None and metric is None:
        raise BadInput("--max-drop needs --eval data.npz or --metric module:function to measure the drop with")
    if metric is not None:
        return Judge(metric, None, load_metric(metric))
    if labelled is None:
        return None
    image = ImageOptions(config.image_size, config.mean, config.std, config.layout, config.channel_order)
    return Judge("top-1 accuracy", load_labelled(str(labelled), input_specs(model), image), None)


def measure(original: ir.Model, pruned: ir.Model, data: Data, judge: Judge | None, config: Config) -> Measured:
    """Measure the pruned model against the original.

    Raises BudgetNotMet where the user's metric drops by more than `--max-drop`.
    """
    judged = None
    if judge is not None:
        judged = Accuracy(metric=judge.name, before=judge.value(original), after=judge.value(pruned))
        if config.max_drop is not None and judged.before - judged.after > config.max_drop:
            raise BudgetNotMet(
                f"{judge.name} drops from {judged.before:.4f} to {judged.after:.4f}, more than --max-drop "
                f"{config.max_drop}: nothing was written; ask for a larger budget"
            )
    if not config.measure:
        return Measured(accuracy=judged)
    fidelity = compare(original, pruned, data.apart, data.held_out)
    return Measured(fidelity, judged, latency([original, pruned], data.sample, data.axes, config))


def latency(
    models: Sequence[ir.Model], sample: Mapping[str, Array], axes: Mapping[str, int | None], config: Config
) -> tuple[Latency, ...]:
    """Time original and pruned in turn on one calibration input."""
    feeds = {
        name: array if axes.get(name) is None else array.take([0], axes[name]) for name, array in sample.items()
    } if all(model_accepts_one(models[0], name, axis) for name, axis in axes.items()) else dict(sample)  # fmt: skip
    before, after = bench(
        models, feeds=feeds, threads=config.threads, providers=config.providers or None, seconds=BENCH_SECONDS
    )
    batch = next((feeds[n].shape[a] for n, a in axes.items() if a is not None), 1)
    return (
        Latency(
            batch=batch,
            threads=config.threads,
            before_ms=before.median,
            after_ms=after.median,
            speedup=after.ratio,
            speedup_p10=after.ratio_p10,
            speedup_p90=after.ratio_p90,
        ),
    )


def model_accepts_one(model: ir.Model, name: str, axis: int | None) -> bool:
    """Whether an input may hold a single sample."""
    value = next(v for v in model.graph.inputs if v.name == name)
    return axis is None or value.shape is None or not isinstance(value.shape[axis], int) or value.shape[axis] == 1
