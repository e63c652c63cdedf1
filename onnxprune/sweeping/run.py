"""The one way through a sweep: what is missing is run, all models are timed together, and the tables are written."""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from onnxprune.config import Config
from onnxprune.course import forget
from onnxprune.errors import BadInput, BudgetNotMet, OnnxPruneError
from onnxprune.model_io import ModelSource, load
from onnxprune.parallel import divided
from onnxprune.pipeline import compress
from onnxprune.progress import Progress, Silent, Stages
from onnxprune.sharing import Shared
from onnxprune.sweeping import digest
from onnxprune.sweeping.facts import Sweep
from onnxprune.sweeping.figures import require_matplotlib, standalone
from onnxprune.sweeping.jobs import SHARES, USUAL, Job, Methods, make_jobs
from onnxprune.sweeping.page import page
from onnxprune.sweeping.store import Finished, Store
from onnxprune.sweeping.table import csv_text, tabulate
from onnxprune.sweeping.timing import Timings, time_all


@dataclass(frozen=True)
class Inputs:
    """What all jobs read."""

    model: Any
    calib: object
    eval: object
    metric: str | None
    train: object


def sweep(
    model: ModelSource,
    output: str | os.PathLike[str],
    *,
    methods: Methods = USUAL,
    budgets: str | Sequence[float] = SHARES,
    by: str = "macs",
    calib: object = None,
    eval: object = None,
    metric: str | None = None,
    train: object = None,
    jobs: int = 1,
    models: bool = True,
    config: Config | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Sweep:
    """Prune a model by every method at every budget, and write tables and a page that show what that costs.

    `methods` are names, with options of their own behind plus signs ("none+fc=as"), or options by label; `budgets`
    are shares of what `by` names: "macs", "params", "speedup" or "ratio". The other arguments are those of `compress`,
    and hold for every job. What `output` holds already is not done again. So many `jobs` run at a time. Pruned models
    are kept in `output` unless `models` is False. Without `measure` no model is timed; fidelity is known all the same.

    Raises BadInput where the model, the data or an option cannot be used, or matplotlib is missing. A job that fails
    is a row that says why.
    """
    require_matplotlib()
    given = {**(config.model_dump(exclude_unset=True) if config is not None else {}), **options}
    grid = make_jobs(methods, budgets, by, given)
    loaded, store = load(model), Store(Path(output))
    inputs = Inputs(model if loaded.path else loaded.model, digest.held(calib), eval, metric, digest.held(train))
    hashes = {
        "model": digest.of_model(loaded.model),
        "calib": digest.of_data(inputs.calib),
        "eval": digest.of_data(eval),
        "metric": digest.of_function(metric, "--metric"),
        "train": digest.of_training(inputs.train),
    }
    keys: dict[str, Job] = {}
    for job in grid:
        keys.setdefault(digest.key_of(job.config, hashes), job)
    stages = Stages(progress or Silent())
    with threadpool_limits(limits=1, user_api="blas"):
        done = _finished(keys, inputs, store, jobs, models, stages)
        timings = time_all(loaded.model, hashes["model"], done, store, inputs.calib, grid[0].config, stages)
    if not models:
        for one in done.values():
            store.drop(one)
    return _written(str(loaded.path or "model"), grid, hashes, done, timings, by, store)


def _finished(
    keys: Mapping[str, Job], inputs: Inputs, store: Store, jobs: int, models: bool, stages: Stages
) -> dict[str, Finished]:
    """The result of every job, by its address."""
    found = {key: store.read(key) for key in keys}
    done = {key: one for key, one in found.items() if one is not None and (one.failed or not models or store.has(one))}
    left = {key: job for key, job in keys.items() if key not in done}
    with stages.stage("sweep", len(left)) as tick:
        for key, one in _run(left, inputs, store, jobs):
            done[key] = one
            tick()
    return done


def _run(left: Mapping[str, Job], inputs: Inputs, store: Store, jobs: int) -> Iterator[tuple[str, Finished]]:
    shared = Shared([job.config for job in left.values()])
    if jobs <= 1 or len(left) < 2:
        yield from ((key, _one(key, job, inputs, store, shared)) for key, job in left.items())
        return
    with divided(jobs), ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(_one, key, job, inputs, store, shared): key for key, job in left.items()}
        try:
            yield from ((running[future], future.result()) for future in as_completed(running))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _one(key: str, job: Job, inputs: Inputs, store: Store, shared: Shared) -> Finished:
    """Run a job and keep what came of it; that no budget can be met is kept too, other failures are tried again."""
    checkpoint = store.checkpoint(key)
    try:
        result = compress(
            inputs.model,
            calib=inputs.calib,
            eval=inputs.eval,
            metric=inputs.metric,
            train=inputs.train,
            checkpoint=checkpoint if job.config.finetune else None,
            resume=bool(job.config.finetune),
            config=job.config.model_copy(update={"measure": True}),  # fidelity; all models are timed at the end
            shared=shared,
        )
        files = store.keep_model(key, job, result.model)
    except Exception as error:
        return _failed(key, job, error, store)
    report, sha256 = result.report, digest.of_model(result.model)
    done = Finished(label=job.label, budget=job.budget, report=report, files=files, sha256=sha256)
    store.keep(key, done)
    forget(checkpoint)
    return done


def _failed(key: str, job: Job, error: Exception, store: Store) -> Finished:
    told = " ".join(str(error).split())
    code, why = 1, f"a defect of onnxprune, please report it ({type(error).__name__}: {told})"
    if isinstance(error, OnnxPruneError):
        code, why = error.exit_code, told
    elif isinstance(error, MemoryError):
        code, why = BadInput.exit_code, "out of memory: try fewer --samples, or one of the --jobs at a time"
    failed = Finished(label=job.label, budget=job.budget, failed=why, exit_code=code)
    if isinstance(error, BudgetNotMet):
        store.keep(key, failed)
    return failed


def _written(
    name: str,
    grid: Sequence[Job],
    hashes: Mapping[str, str],
    done: Mapping[str, Finished],
    timings: Timings | None,
    by: str,
    store: Store,
) -> Sweep:
    """The tables, the picture and the page."""
    rows = [(job, key, done[key]) for job in grid for key in [digest.key_of(job.config, hashes)]]
    if not any(one.report for _, _, one in rows):
        kind = BudgetNotMet if any(one.exit_code == BudgetNotMet.exit_code for _, _, one in rows) else BadInput
        raise kind(f"no job of the sweep came to its end; the first says: {rows[0][2].failed}")
    found = tabulate(name, rows, timings, by, store)
    store.write("sweep.csv", csv_text(found))
    store.write("sweep.json", found.model_dump_json(indent=1) + "\n")
    store.write("sweep.svg", standalone(found))
    store.write("index.html", page(found))
    return found
