"""Latency of all models of a sweep and of the original, in turn in one run, when no job runs any more."""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence

import onnx_ir as ir
from pydantic import BaseModel, ConfigDict

from onnxprune.bench import bench
from onnxprune.calibration.window import batch_of, cut
from onnxprune.config import Config
from onnxprune.parallel import cores
from onnxprune.prepare import open_data
from onnxprune.progress import Stages
from onnxprune.runtime import import_onnxruntime
from onnxprune.sweeping.store import Finished, Store
from onnxprune.widths import runtime_block

SECONDS = 0.25
"""Of measurement for each model."""


class TimedModel(BaseModel):
    """Median milliseconds of a run, and how many times as fast as the original it is, with the spread."""

    model_config = ConfigDict(frozen=True)

    milliseconds: float
    speedup: float
    speedup_p10: float
    speedup_p90: float


class Timings(BaseModel):
    """Timings by the hash of the model; those in `together` come from one run, the last."""

    model_config = ConfigDict(frozen=True)

    batch: int
    threads: int | None
    original: float
    models: dict[str, TimedModel]
    together: tuple[str, ...]


def time_all(
    original: ir.Model,
    digest: str,
    done: Mapping[str, Finished],
    store: Store,
    calib: object,
    config: Config,
    stages: Stages,
) -> Timings | None:
    """Time all models unless that was done; None where it is not wanted.

    Models that are not there any more keep what was measured of them against the same original.
    """
    wanted = {one.sha256: one for one in done.values() if one.report is not None}
    if not config.measure or not wanted:
        return None
    name = f"latency-{_key(digest, config)}"
    known = store.load(name, Timings)
    there = {sha256: one for sha256, one in wanted.items() if store.has(one)}
    if known is not None and (set(there) <= set(known.together) or set(wanted) <= set(known.together)):
        return known
    with stages.stage("time"):
        timed = _timed(original, there, store, calib, config)
    older = known.models if known is not None else {}
    timings = timed.model_copy(update={"models": {**older, **timed.models}})
    store.keep(name, timings)
    return timings


def _timed(original: ir.Model, there: Mapping[str, Finished], store: Store, calib: object, config: Config) -> Timings:
    data = open_data(original, calib, config, matched=False)
    feeds = dict(data.sample) if data.fixed_batch else cut(data.sample, data.axes, 0, 1)
    paths: Sequence[ir.Model | str] = [original, *(str(store.folder / one.files[0]) for one in there.values())]
    before, *others = bench(
        paths,
        names=["original", *there],
        feeds=feeds,
        threads=config.threads,
        providers=config.providers or None,
        seconds=SECONDS * len(paths),
    )
    return Timings(
        batch=batch_of(feeds, data.axes),
        threads=config.threads,
        original=before.median,
        models={
            one.name: TimedModel(
                milliseconds=one.median, speedup=one.ratio, speedup_p10=one.ratio_p10, speedup_p90=one.ratio_p90
            )
            for one in others
        },
        together=tuple(there),
    )


def _key(digest: str, config: Config) -> str:
    """What timings depend on beside the model: the original, the options, the runtime and the processor."""
    where = (platform.machine(), platform.processor(), runtime_block(), cores(), import_onnxruntime().__version__)
    said = [digest, config.threads, config.providers, config.input_shape, *where]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]
