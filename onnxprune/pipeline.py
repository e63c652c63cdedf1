"""The one way through: load, analyse, collect, score, allocate, remove, rebuild, fine-tune, verify, measure."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
from threadpoolctl import threadpool_limits

from onnxprune.calibration.allowance import allowance
from onnxprune.calibration.collect import Collected, collect
from onnxprune.calibration.sampling import Sampling
from onnxprune.choose import Chosen, choose
from onnxprune.config import Config, make_config
from onnxprune.costs import cost_model
from onnxprune.criteria import lookup
from onnxprune.criteria.problem import Options
from onnxprune.criteria.scored import Scores
from onnxprune.dependency import Keep
from onnxprune.errors import BadInput
from onnxprune.half_open import fold_half_open
from onnxprune.importance import SCORERS
from onnxprune.layers import Layer, layers_in_order
from onnxprune.measure import measure, open_judge
from onnxprune.model_io import ModelSource, like, load
from onnxprune.passes.remove import remove
from onnxprune.passes.samplers import drop_idle_samplers
from onnxprune.passes.states import settle_products
from onnxprune.plan import Plan
from onnxprune.planning import keep_of_widths, make_plan, provable, reader_errors
from onnxprune.prepare import Data, Prepared, fitted, open_data, prepare
from onnxprune.progress import Progress, Silent, Stages
from onnxprune.rebuild import Rebuilt, rebuild
from onnxprune.report import Report
from onnxprune.reporting import Outcome, make_report
from onnxprune.scoring import Scored, score
from onnxprune.tuning import Course, pruned, tune
from onnxprune.verify import prove
from onnxprune.widths import runtime_block


@dataclass(frozen=True, eq=False)
class Result:
    """What `compress` returns: the pruned model (of the kind that was given), the plan and the report."""

    model: Any
    plan: Plan
    report: Report


def compress(
    model: ModelSource,
    *,
    calib: object = None,
    eval: object = None,
    metric: str | None = None,
    train: object = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    config: Config | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Result:
    """Prune a model: fewer channels, the rest solved again so that outputs stay near the original's, and a proof.

    `calib` is what `--calib` takes, or arrays, an iterable of feeds, a CalibrationDataReader; None for synthetic
    inputs. `eval` is a labelled `.npz`, `metric` a "module:function". With `finetune` the model is trained on `train`
    (what `calib` may be, with labels `y` where there are any; `calib` if not given); where it stands is written to
    `checkpoint` from time to time, and `resume` goes on from there. Options are the fields of `Config`, and go before
    those of `config`.

    Raises BadInput (model, data or option unusable), BudgetNotMet, or ProofFailed; the model given is never changed.
    """
    base = config.model_dump(exclude_unset=True) if config is not None else {}
    settings = make_config(**{**base, **options})
    # Threads of one small product meet at a barrier; on a busy machine that made a run seven times as slow.
    with threadpool_limits(limits=1, user_api="blas"):
        course = Course(train, checkpoint, resume)
        return _run(model, calib, eval, metric, course, settings, Stages(progress or Silent()))


def _run(
    model: ModelSource,
    calib: object,
    eval: object,
    metric: str | None,
    course: Course,
    settings: Config,
    stages: Stages,
) -> Result:
    criterion = lookup(settings.method)
    with stages.stage("analyse"):
        loaded = load(model)
        judge = open_judge(loaded.model, eval, metric, settings)
        solves = criterion.needs_data or settings.rebuild != "none"
        fold = solves or settings.method in SCORERS
        data = open_data(loaded.model, calib, settings, matched=fold)
        samples = course.opened(loaded.model, calib, data, settings) if settings.finetune else None
        prepared = prepare(loaded.model, data, settings, fold)
    costs = cost_model(prepared.analysis, prepared.original)
    data = fitted(data, prepared.analysis.trace, float(costs.macs(costs.full)), settings)
    layers, wave = layers_in_order(prepared.analysis)
    layers = [layer for layer in layers if layer.name not in prepared.frozen and layer.bias is not None]
    fits = allowance([layer.linear for layer in layers], settings.memory_bytes)
    sampling = Sampling(data.source.samples, data.batches, len(layers), prepared.analysis.trace, settings.seed, fits)
    collected = _collect(prepared, layers, data, sampling, stages) if solves else None
    importance = _importance(prepared, data, settings, stages)
    scored = _score(prepared, collected, importance, settings, stages)
    collected = collected and replace(collected, statistics={})  # the rebuild needs the targets alone
    chosen, keep, refused = _choose(prepared, scored, layers, data, settings, stages)
    del scored  # and with it the moments of all layers
    with stages.stage("remove"):
        slim, notes = _removed(prepared, keep, importance, settings)
    solved: list[Rebuilt] = []
    disk = 0
    if collected is not None and settings.rebuild != "none":
        with stages.stage("rebuild", max((layer.wave for layer in layers), default=0) + 1) as tick:
            analysis = prepared.analysis
            slim, solved, disk = rebuild(
                analysis, slim, keep, layers, wave, collected, data.source, sampling, settings.rebuild, tick
            )
    tuned = None
    if samples is not None and settings.finetune is not None:
        task = pruned(prepared, slim, keep, samples, course, settings)
        slim, tuned = tune(task, settings.finetune, settings, stages)
    named = drop_idle_samplers(slim)
    slim = settle_products(named)
    with stages.stage("verify"):
        proof = prove(prepared.analysis, slim, keep, data.sample, named)
    with stages.stage("measure"):
        measured = measure(prepared.original, slim, data, judge, settings)
    plan = make_plan(prepared, keep, reader_errors(prepared, solved), settings)
    wide = [layer.linear for layer in layers if solves and layer.linear.features.shape[1] > fits.widest]
    notes = (*importance.notes, *notes)
    outcome = Outcome(slim, chosen, refused, solved, proof, measured, stages.seconds, disk, wide, tuned, notes)
    return Result(like(slim, loaded), plan, make_report(loaded, settings, prepared, data, plan, outcome))


def _collect(prepared: Prepared, layers: list[Layer], data: Data, sampling: Sampling, stages: Stages) -> Collected:
    """Sweep 1."""
    readers = frozenset(linear.node.name or "" for group in prepared.groups for linear in group.readers)
    with stages.stage("collect", data.batches) as tick:
        return collect(prepared.analysis.flat, layers, readers, data.source, sampling, tick)


def _importance(prepared: Prepared, data: Data, config: Config, stages: Stages) -> Scores:
    """What the method says of the whole graph, where it is one that looks at that."""
    if config.method not in SCORERS or not prepared.groups:
        return Scores({})
    with stages.stage("importance") as tick:
        return SCORERS[config.method](prepared, data, config, tick)


def _score(
    prepared: Prepared, collected: Collected | None, importance: Scores, config: Config, stages: Stages
) -> list[Scored]:
    options, criterion = Options(norm=config.norm, forward=config.forward), lookup(config.method)
    with stages.stage("score", len(prepared.groups)) as tick:
        groups, seed = prepared.groups, config.seed
        return score(prepared.analysis, collected, criterion, options, seed, groups, tick, importance.by_group)


def _choose(
    prepared: Prepared, scored: list[Scored], layers: list[Layer], data: Data, config: Config, stages: Stages
) -> tuple[Chosen, Keep, dict[str, str]]:
    """Allocate, and make sure that the removal can be proved before any layer is solved; refuse groups that cannot."""
    costs = cost_model(prepared.analysis, prepared.original)
    align = runtime_block() if config.align == "auto" else config.align
    refused: dict[str, str] = {}
    while True:
        open_now = [one for one in scored if one.group.name not in refused]
        if not open_now:
            raise BadInput(_nothing(prepared, refused))
        with stages.stage("allocate", len(open_now)) as tick:
            chosen = choose(prepared.analysis, open_now, costs, layers, data, config, align, tick)
        keep = keep_of_widths(prepared.analysis, open_now, chosen)
        with stages.stage("verify"):
            failed = provable(prepared.analysis, keep, open_now, data.sample)
        if not failed:
            return chosen, keep, refused
        refused |= failed


def _removed(prepared: Prepared, keep: Keep, importance: Scores, config: Config) -> tuple[ir.Model, tuple[str, ...]]:
    """The slim model; where no rebuild makes up for it, with what half-open gates let through in the weights."""
    slim = remove(prepared.analysis, keep)
    if config.rebuild != "none" or not importance.factors:
        return slim, ()
    return fold_half_open(prepared, slim, keep, importance.factors)


def _nothing(prepared: Prepared, refused: dict[str, str]) -> str:
    closed = [f"{c.name} ({c.width}): {c.reason}" for c in prepared.closed] + [f"{n}: {r}" for n, r in refused.items()]
    return "no channel of this model can go: " + "; ".join(closed or ["it has no layer with a constant weight"])
