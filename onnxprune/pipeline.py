"""The one way through: load, analyse, collect, score, allocate, remove, rebuild, fine-tune, verify, measure."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from onnxprune.config import Config, make_config
from onnxprune.cutting import solves
from onnxprune.importance import SCORERS
from onnxprune.measure import measure, open_judge
from onnxprune.model_io import ModelSource, like, load
from onnxprune.passes.samplers import drop_idle_samplers
from onnxprune.passes.states import settle_products
from onnxprune.plan import Plan
from onnxprune.planning import make_plan, product_plans, reader_errors
from onnxprune.prepare import fitted, open_data, prepare
from onnxprune.progress import Progress, Silent, Stages
from onnxprune.report import Report
from onnxprune.reporting import Outcome, make_report
from onnxprune.rounds import prune
from onnxprune.torch_twin import require_torch
from onnxprune.tuning import Course
from onnxprune.verify import prove


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
    if settings.fc == "ger":
        require_torch("--fc ger")
    with stages.stage("analyse"):
        loaded = load(model)
        judge = open_judge(loaded.model, eval, metric, settings)
        fold = solves(settings) or settings.method in SCORERS
        data = open_data(loaded.model, calib, settings, matched=fold)
        samples = course.opened(loaded.model, calib, data, settings) if settings.finetune else None
        prepared = prepare(loaded.model, data, settings, fold)
    costs = prepared.costs
    data = fitted(data, prepared.analysis.trace, float(costs.macs(costs.full)), settings)
    pruned = prune(prepared, data, samples, course, settings, stages)
    named = drop_idle_samplers(pruned.model)
    slim = settle_products(named)
    with stages.stage("verify"):
        proof = prove(prepared.analysis, slim, pruned.keep, data.sample, drop_idle_samplers(pruned.solved(named)))
    with stages.stage("measure"):
        measured = measure(prepared.original, slim, data, judge, settings)
    errors, products = reader_errors(prepared, pruned.last.solved), product_plans(pruned.written, settings)
    plan = make_plan(prepared, pruned.keep, errors, settings, products)
    outcome = Outcome(
        model=slim,
        chosen=pruned.chosen,
        refused=pruned.refused,
        solved=pruned.last.solved,
        proof=proof,
        measured=measured,
        seconds=stages.seconds,
        disk_bytes=pruned.disk_bytes,
        wide=pruned.wide,
        tuned=pruned.tuned,
        rounds=pruned.rounds,
        notes=pruned.notes,
        joint=pruned.joint,
    )
    return Result(like(slim, loaded), plan, make_report(loaded, settings, prepared, data, plan, outcome))
