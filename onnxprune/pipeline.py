"""The one way through: load, analyse, collect, score, allocate, remove, rebuild, fine-tune, verify, measure."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from onnxprune.coding import code_layers
from onnxprune.config import Config, make_config
from onnxprune.course import Course
from onnxprune.cutting import solves
from onnxprune.heads import prepare_headed
from onnxprune.importance import SCORERS
from onnxprune.measure import measure, open_judge
from onnxprune.model_io import Loaded, ModelSource, like, load
from onnxprune.passes.samplers import drop_idle_samplers
from onnxprune.passes.states import settle_products
from onnxprune.plan import Plan
from onnxprune.planning import make_plan, product_plans, reader_errors
from onnxprune.prepare import Data, Prepared, choosable, fitted, open_data
from onnxprune.progress import Progress, Silent, Stages
from onnxprune.report import Report
from onnxprune.reporting import Outcome, make_report
from onnxprune.rounds import prune
from onnxprune.sharing import ALONE, Alone
from onnxprune.torch_twin import require_torch
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
    shared: Alone | None = None,
    **options: Any,
) -> Result:
    """Prune a model: fewer channels, the rest solved again so that outputs stay near the original's, and a proof.

    `calib` is what `--calib` takes, or arrays, an iterable of feeds, a CalibrationDataReader; None for synthetic
    inputs. `eval` is a labelled `.npz`, `metric` a "module:function". With `finetune` the model is trained on `train`
    (what `calib` may be, with labels `y` where there are any; `calib` if not given); where it stands is written to
    `checkpoint` from time to time, and `resume` goes on from there. Options are the fields of `Config`, and go before
    those of `config`. Runs on the same model and data may have what they need in common in `shared`.

    Raises BadInput (model, data or option unusable), BudgetNotMet, or ProofFailed; the model given is never changed.
    """
    base = config.model_dump(exclude_unset=True) if config is not None else {}
    settings = make_config(**{**base, **options})
    # Threads of one small product meet at a barrier; on a busy machine that made a run seven times as slow.
    with threadpool_limits(limits=1, user_api="blas"):
        course = Course(train, checkpoint, resume)
        return _run(model, calib, eval, metric, course, settings, Stages(progress or Silent()), shared or ALONE)


def _run(
    model: ModelSource,
    calib: object,
    eval: object,
    metric: str | None,
    course: Course,
    settings: Config,
    stages: Stages,
    shared: Alone,
) -> Result:
    if settings.fc == "ger":
        require_torch("--fc ger")
    with stages.stage("analyse"):
        loaded = load(model)
        judge = open_judge(loaded.model, eval, metric, settings)
    data, prepared = _prepared(loaded, calib, settings, stages, shared)
    with stages.stage("analyse"):
        samples = course.opened(loaded.model, calib, data, settings) if settings.finetune else None
    pruned = prune(prepared, data, samples, course, settings, stages, shared)
    named = drop_idle_samplers(pruned.model)
    coded = code_layers(prepared, named, settings, stages)
    slim = settle_products(coded.model)
    with stages.stage("verify"):
        solved = coded.whole(drop_idle_samplers(pruned.solved(named)))
        proof = prove(prepared.analysis, slim, pruned.keep, data.sample, solved, bool(pruned.written))
    with stages.stage("measure"):
        measured = measure(prepared.came, slim, data, judge, settings, shared)
    errors = reader_errors(prepared, pruned.last.solved)
    products = product_plans(prepared.analysis, pruned.written, settings)
    plan = make_plan(prepared, pruned.keep, errors, settings, products, coded.plans)
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
        codes=coded.reports,
        joint=pruned.joint,
    )
    return Result(like(slim, loaded), plan, make_report(loaded, settings, prepared, data, plan, outcome))


def _prepared(loaded: Loaded, calib: object, settings: Config, stages: Stages, shared: Alone) -> tuple[Data, Prepared]:
    """The data and the analysed graph; what may go of it is a matter of these options alone."""
    fold = solves(settings) or settings.method in SCORERS

    def opened() -> tuple[Data, Prepared]:
        with stages.stage("analyse"):
            data = open_data(loaded.model, calib, settings, matched=fold)
        prepared = prepare_headed(loaded.model, data, settings, fold, stages)
        costs = prepared.costs
        return fitted(data, prepared.analysis.trace, float(costs.macs(costs.full)), settings), prepared

    if settings.head is not None:  # whether that is enough is a matter of the budget
        return opened()
    data, prepared = shared.once("prepared", settings, opened, fold, settings.method == "none" and bool(settings.only))
    groups, closed = choosable(prepared.analysis.groups, settings)
    return data, replace(prepared, groups=groups, closed=(*prepared.analysis.closed, *closed))
