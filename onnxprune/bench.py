"""Latency of models, measured in turn in one run, so that a busy machine slows all of them alike."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxprune.errors import BadInput
from onnxprune.model_io import load
from onnxprune.runtime import open_session, run
from onnxprune.serialise import LARGE, release_all, tensor_bytes

Feeds = Mapping[str, np.ndarray]
_WARM_UP_ROUNDS = 3
_LEAST_ROUNDS = 5


@dataclass(frozen=True)
class Timing:
    """Latency of one model: milliseconds a run, and how many times as fast as the first model it runs.

    `ratio` is the median of the pairwise ratios first/this of the rounds, `ratio_p10` and `ratio_p90` their spread;
    above 1 is faster than the first.
    """

    name: str
    median: float
    p10: float
    p90: float
    ratio: float
    ratio_p10: float
    ratio_p90: float


def bench(
    models: Sequence[ir.Model | str | os.PathLike[str]],
    *,
    names: Sequence[str] | None = None,
    feeds: Mapping[str, np.ndarray] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    seconds: float = 2.0,
    seed: int = 0,
) -> list[Timing]:
    """Time `models` on onnxruntime, interleaved A B A B after a warm-up, for about `seconds` in all.

    Models that are large together are timed one after the other, so that no two are in memory.

    Without `feeds` the inputs are random, of the declared shapes: a free first dimension is `batch` (1), other free
    dimensions come from `shapes` (input name → whole shape).

    Raises:
        BadInput: a model cannot be loaded or run, or the shape of an input is not known.
    """
    graphs = [model if isinstance(model, ir.Model) else load(model).model for model in models]
    labels = list(names or (_label(model, index) for index, model in enumerate(models)))
    inputs = [feeds if feeds is not None else random_feeds(graph, shapes or {}, batch, seed) for graph in graphs]

    def opened(graph: ir.Model) -> Any:
        return open_session(graph, threads=threads, providers=providers, timed=True)

    if sum(tensor_bytes(graph) for graph in graphs) <= LARGE:
        rounds = _measure([opened(graph) for graph in graphs], inputs, seconds)
    else:
        apart = [_alone(opened, graph, feed, seconds / len(graphs)) for graph, feed in zip(graphs, inputs, strict=True)]
        rounds = np.stack([column[: min(map(len, apart))] for column in apart], axis=1)
    return [_timing(label, rounds[:, 0], column) for label, column in zip(labels, rounds.T, strict=True)]


def random_feeds(
    model: ir.Model, shapes: Mapping[str, Sequence[int]], batch: int | None, seed: int
) -> dict[str, np.ndarray]:
    """Return seeded random arrays for the inputs of `model`: normal floats, integers and booleans of 0 and 1.

    Raises:
        BadInput: a dimension is free and not given, the batch is fixed at another size, or a type holds no numbers.
    """
    rng = np.random.default_rng(seed)
    variable = [value for value in model.graph.inputs if not value.is_initializer()]
    unknown = set(shapes) - {value.name for value in variable}
    if unknown:
        raise BadInput(
            f"a shape is given for {sorted(unknown)}, but the inputs are {[value.name for value in variable]}"
        )
    return {value.name or "": _random(rng, value, _shape(value, shapes, batch)) for value in variable}


def _shape(value: ir.Value, shapes: Mapping[str, Sequence[int]], batch: int | None) -> tuple[int, ...]:
    if (given := shapes.get(value.name or "")) is not None:
        return tuple(given)
    if value.shape is None:
        raise BadInput(f"input {value.name!r} has no declared shape: give it with --input-shape {value.name}=…")
    dims = [dim if isinstance(dim, int) and dim > 0 else None for dim in value.shape]
    if dims and dims[0] is None:
        dims[0] = batch or 1
    elif dims and batch is not None and dims[0] != batch:
        raise BadInput(
            f"input {value.name!r} has a fixed first dimension of {dims[0]}: a batch of {batch} cannot be run"
        )
    if None in dims:
        raise BadInput(
            f"input {value.name!r} has free dimensions, {value.shape}: give them with --input-shape {value.name}=…"
        )
    return tuple(dim for dim in dims if dim is not None)


def _random(rng: np.random.Generator, value: ir.Value, shape: tuple[int, ...]) -> np.ndarray:
    if value.dtype is None or value.dtype == ir.DataType.STRING:
        raise BadInput(f"input {value.name!r} is not a tensor of numbers: give feeds")
    if value.dtype.is_floating_point():
        return rng.standard_normal(shape).astype(value.dtype.numpy())
    # Zeros and ones are valid ids, masks and lengths in every model.
    return rng.integers(0, 2, shape).astype(value.dtype.numpy())


def _measure(sessions: Sequence[Any], inputs: Sequence[Mapping[str, np.ndarray]], seconds: float) -> np.ndarray:
    """Return milliseconds, one row a round, one column a session."""
    for _ in range(_WARM_UP_ROUNDS):
        for session, feeds in zip(sessions, inputs, strict=True):
            run(session, feeds)
    rounds: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(rounds) < _LEAST_ROUNDS or time.perf_counter() < end:
        rounds.append([_milliseconds(session, feeds) for session, feeds in zip(sessions, inputs, strict=True)])
    return np.array(rounds)


def _alone(opened: Callable[[ir.Model], Any], graph: ir.Model, feeds: Feeds, seconds: float) -> np.ndarray:
    """Milliseconds of each round of one model, which is in memory for no longer."""
    column = _measure([opened(graph)], [feeds], seconds)[:, 0]
    release_all(graph)
    return column


def _milliseconds(session: Any, feeds: Mapping[str, np.ndarray]) -> float:
    start = time.perf_counter()
    session.run(None, feeds)
    return (time.perf_counter() - start) * 1e3


def _timing(name: str, first: np.ndarray, this: np.ndarray) -> Timing:
    p10, median, p90 = (float(figure) for figure in np.percentile(this, (10, 50, 90)))
    ratio_p10, ratio, ratio_p90 = (float(figure) for figure in np.percentile(first / this, (10, 50, 90)))
    return Timing(name, median, p10, p90, ratio, ratio_p10, ratio_p90)


def _label(model: ir.Model | str | os.PathLike[str], index: int) -> str:
    return f"model {index + 1}" if isinstance(model, ir.Model) else Path(model).name
