"""The commands that only measure, and what they tell: `bench`, `compare`, `doctor`."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from onnxprune.bench import bench
from onnxprune.calibration.source import ImageOptions, Trial, input_specs, open_calibration
from onnxprune.config import Config
from onnxprune.doctor import diagnose
from onnxprune.errors import BadInput
from onnxprune.fidelity import compare
from onnxprune.measure import open_judge
from onnxprune.model_io import load
from onnxprune.prepare import DEFAULT_SAMPLES
from onnxprune.report import Accuracy, Fidelity


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class TimedModel(_Frozen):
    """Milliseconds a run, and how many times as fast as the first model, by the rounds of the measurement."""

    name: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    speedup: float
    speedup_p10: float
    speedup_p90: float


class Timings(_Frozen):
    """What `onnxprune bench` tells."""

    batch: int | None
    threads: int | None
    providers: tuple[str, ...]
    models: tuple[TimedModel, ...]


class Comparison(_Frozen):
    """What `onnxprune compare` tells."""

    first: str
    second: str
    data: str
    guesses: tuple[str, ...]
    fidelity: Fidelity
    accuracy: Accuracy | None


class Diagnosed(_Frozen):
    """What `onnxprune doctor` tells; `broken` where nothing can be relied on until a problem is repaired."""

    python: str
    platform: str
    packages: dict[str, str | None]
    runtimes: dict[str, str]
    providers: dict[str, str | None]
    problems: tuple[str, ...]
    broken: bool


def time_models(models: Sequence[str], config: Config, batch: int | None, seconds: float) -> Timings:
    """Time models in turn on inputs drawn with the seed.

    Raises BadInput where a model cannot be loaded or run.
    """
    timings = bench(
        models,
        shapes=config.input_shape,
        batch=batch,
        threads=config.threads,
        providers=config.providers or None,
        seconds=seconds,
        seed=config.seed,
    )
    timed = tuple(
        TimedModel(
            name=t.name,
            median_ms=t.median,
            p10_ms=t.p10,
            p90_ms=t.p90,
            speedup=t.ratio,
            speedup_p10=t.ratio_p10,
            speedup_p90=t.ratio_p90,
        )
        for t in timings
    )
    return Timings(batch=batch, threads=config.threads, providers=config.providers, models=timed)


def compare_models(
    first: str, second: str, calib: object, labelled: str | None, metric: str | None, config: Config
) -> Comparison:
    """Run two models on the same inputs.

    Raises BadInput where their inputs or outputs differ in name, or the data do not fit.
    """
    a, b = load(first).model, load(second).model
    for what in ("inputs", "outputs"):
        names = [[v.name for v in getattr(model.graph, what) if not v.is_initializer()] for model in (a, b)]
        if sorted(map(str, names[0])) != sorted(map(str, names[1])):
            raise BadInput(f"the {what} of {first} are {names[0]}, those of {second} {names[1]}: nothing to compare")
    judge = open_judge(a, labelled, metric, config)
    image = ImageOptions(config.image_size, config.mean, config.std, config.layout, config.channel_order)
    samples = config.samples or DEFAULT_SAMPLES
    opened = open_calibration(
        calib,
        input_specs(a),
        config.input_shape,
        samples=samples,
        batch_size=min(config.batch_size, samples),
        seed=config.seed,
        image=image,
        trial=Trial(a),
    )
    return Comparison(
        first=first,
        second=second,
        data=opened.source.description,
        guesses=tuple(opened.guesses),
        fidelity=compare(a, b, opened.source, held_out=False),
        accuracy=None if judge is None else Accuracy(metric=judge.name, before=judge.value(a), after=judge.value(b)),
    )


def diagnosis() -> Diagnosed:
    """Look at this installation: broken without onnxruntime, without any provider, or with two wheels of it."""
    found = diagnose()
    started = [provider for provider in found.providers if provider.problem is None]
    return Diagnosed(
        python=found.python,
        platform=found.platform,
        packages=found.packages,
        runtimes=found.runtimes,
        providers={provider.name: provider.problem for provider in found.providers},
        problems=found.problems,
        broken=len(found.runtimes) > 1 or not started,
    )
