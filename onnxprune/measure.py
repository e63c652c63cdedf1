"""The last stage: accuracy, fidelity and latency of the pruned model against the original."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxprune.bench import bench
from onnxprune.calibration.source import ImageOptions, Source, Trial, input_specs, load_labelled
from onnxprune.calibration.window import batch_of, cut
from onnxprune.config import STORED, Config
from onnxprune.errors import BadInput, BudgetNotMet
from onnxprune.fidelity import Metric, accuracy, compare, load_metric
from onnxprune.graph import Array
from onnxprune.prepare import Data
from onnxprune.report import Accuracy, Fidelity, Latency, Memory
from onnxprune.resident import session_memory
from onnxprune.runtime import open_session
from onnxprune.sharing import ALONE, Alone

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
    memory: tuple[Memory, Memory] | None = None


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
    return Judge("top-1 accuracy", load_labelled(str(labelled), input_specs(model), image, trial=Trial(model)), None)


def measure(
    original: ir.Model, pruned: ir.Model, data: Data, judge: Judge | None, config: Config, shared: Alone = ALONE
) -> Measured:
    """Measure the pruned model against the original.

    Raises BudgetNotMet where the user's metric drops by more than `--max-drop`.
    """
    judged = None
    if judge is not None:
        value = judge.value
        before = shared.once("judged", config, lambda: value(original), judge.name, original)
        judged = Accuracy(metric=judge.name, before=before, after=value(pruned))
        if config.max_drop is not None and judged.before - judged.after > config.max_drop:
            raise BudgetNotMet(
                f"{judge.name} drops from {judged.before:.4f} to {judged.after:.4f}, more than --max-drop "
                f"{config.max_drop}: nothing was written; ask for a larger budget"
            )
    if not config.measure:
        return Measured(accuracy=judged)
    fidelity = compare(original, pruned, data.apart, data.held_out)
    timed = latency([original, pruned], data, config) if shared.timed else ()
    memory = _memory(original, pruned, data) if config.fc in STORED else None
    return Measured(fidelity, judged, timed, memory)


def _memory(original: ir.Model, pruned: ir.Model, data: Data) -> tuple[Memory, Memory] | None:
    """What a session of either takes, with one calibration input."""
    before, after = (session_memory(model, _one_input(data)) for model in (original, pruned))
    return None if before is None or after is None else (before, after)


def _one_input(data: Data) -> dict[str, Array]:
    """One calibration input, or as many as the model insists on."""
    return dict(data.sample) if data.fixed_batch else cut(data.sample, data.axes, 0, 1)


def latency(models: Sequence[ir.Model], data: Data, config: Config) -> tuple[Latency, ...]:
    """Time original and pruned in turn on one calibration input."""
    feeds = _one_input(data)
    before, after = bench(
        models, feeds=feeds, threads=config.threads, providers=config.providers or None, seconds=BENCH_SECONDS
    )
    return (
        Latency(
            batch=batch_of(feeds, data.axes),
            threads=config.threads,
            before_ms=before.median,
            after_ms=after.median,
            speedup=after.ratio,
            speedup_p10=after.ratio_p10,
            speedup_p90=after.ratio_p90,
        ),
    )
