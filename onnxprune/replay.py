"""`apply`: remove what a plan says, bit for bit; with calibration data, solve the remaining weights again as well."""

import numpy as np
import onnx_ir as ir
from threadpoolctl import threadpool_limits

from onnxprune.calibration.allowance import allowance
from onnxprune.calibration.collect import collect
from onnxprune.calibration.sampling import Sampling
from onnxprune.choose import Chosen
from onnxprune.coding import coded_as
from onnxprune.config import Config
from onnxprune.dependency import Keep
from onnxprune.graph import nodes_by_name
from onnxprune.heads import prepare_headed
from onnxprune.layers import layers_in_order
from onnxprune.low_rank.approximate import solver
from onnxprune.low_rank.convolutions import nearest
from onnxprune.measure import measure, open_judge
from onnxprune.model_io import Loaded, ModelSource, like, load
from onnxprune.passes.factorize_low_rank import factorize_low_rank, matrix_of, multiplied, window_of
from onnxprune.passes.remove import remove
from onnxprune.passes.samplers import drop_idle_samplers
from onnxprune.passes.states import settle_products
from onnxprune.pipeline import Result
from onnxprune.plan import Plan, keep_of
from onnxprune.prepare import Data, Prepared, fitted, open_data
from onnxprune.progress import Progress, Silent, Stages
from onnxprune.ranks import is_window, planned, worth
from onnxprune.rebuild import Ranks, Rebuild, rebuild
from onnxprune.report import Budget, Report
from onnxprune.reporting import Outcome, head_notes, make_report
from onnxprune.serialise import LARGE, tensor_bytes
from onnxprune.verify import prove

FEW_SAMPLES = 64
UNSOLVED = "Removal only: no layer was solved again; --calib with the inputs of the first run does that."
UNTRAINED = (
    "The factors of the plan (--fc ger) are {}, not trained together again: `onnxprune finetune --teacher` trains "
    "what is written."
)
UNMEASURED = "Not measured, for that takes the memory of the whole model: --measure asks for it."


def apply_plan(
    model: ModelSource,
    plan: Plan,
    *,
    calib: object = None,
    eval: object = None,
    metric: str | None = None,
    config: Config | None = None,
    progress: Progress | None = None,
) -> Result:
    """Remove from `model` what `plan` says; without `calib` nothing else changes, with it layers are rebuilt too.

    Raises BadInput where the plan is not this model's, BudgetNotMet, or ProofFailed; the model given is never changed.
    """
    stages = Stages(progress or Silent())
    fixed = {"open": plan.open, "sampler": plan.sampler, "head": None}
    settings = (config or Config()).model_copy(update=fixed)
    solve = calib is not None and settings.rebuild != "none"
    if not solve:
        settings = settings.model_copy(update={"samples": settings.samples or FEW_SAMPLES})
    with threadpool_limits(limits=1, user_api="blas"):
        with stages.stage("analyse"):
            loaded = load(model)
            judge = open_judge(loaded.model, eval, metric, settings)
            data = open_data(loaded.model, calib, settings, matched=solve)
        prepared = prepare_headed(loaded.model, data, settings, solve, stages, plan.heads)
        with stages.stage("analyse"):
            costs = prepared.costs
            data = fitted(data, prepared.analysis.trace, float(costs.macs(costs.full)), settings)
            keep = keep_of(plan, prepared.analysis)
        slim = remove(prepared.analysis, keep)
        found = _rebuilt(prepared, slim, keep, plan, data, settings, stages) if solve else _cut_blindly(slim, plan)
        factors = {name: (one.first, one.second) for name, one in found.factors.items()}
        slim, written = factorize_low_rank(found.model, factors)
        named = drop_idle_samplers(slim)
        coded = coded_as(named, plan.codes)
        slim = settle_products(coded.model)
        with stages.stage("verify"):
            whole = drop_idle_samplers(multiplied(found.model, named, written)) if written else named
            solved = coded.whole(whole)
            proof = prove(prepared.analysis, slim, keep, data.sample, solved, bool(written))
        if not solve and "measure" not in settings.model_fields_set and tensor_bytes(prepared.came) > LARGE:
            settings = settings.model_copy(update={"measure": False})
        with stages.stage("measure"):
            measured = measure(prepared.came, slim, data, judge, settings)
    outcome = Outcome(
        slim, _chosen(plan), {}, found.solved, proof, measured, stages.seconds, found.disk_bytes, codes=coded.reports
    )
    return Result(like(slim, loaded), plan, _report(loaded, settings, prepared, data, plan, outcome))


def _cut_blindly(slim: ir.Model, plan: Plan) -> Rebuild:
    """The products of the plan by singular values: without data nothing tells more."""
    nodes = nodes_by_name(slim)
    forms = {nodes[name]: form for name, form in planned(plan.products).items()}
    factors = {node.name or "": nearest(matrix_of(node), form, window_of(node)) for node, form in forms.items()}
    return Rebuild(slim, [], factors, 0)


def _rebuilt(
    prepared: Prepared, slim: ir.Model, keep: Keep, plan: Plan, data: Data, config: Config, stages: Stages
) -> Rebuild:
    """Both sweeps; the first keeps the targets only, for nothing is chosen any more."""
    assert config.rebuild != "none"
    layers, wave = layers_in_order(prepared.analysis)
    layers = [layer for layer in layers if layer.name not in prepared.frozen and layer.bias is not None]
    fits = allowance([layer.linear for layer in layers], config.memory_bytes)
    sampling = Sampling(data.source.samples, data.batches, len(layers), prepared.analysis.trace, config.seed, fits)
    with stages.stage("collect") as tick:
        collected = collect(prepared.analysis.flat, layers, frozenset(), data.source, sampling, tick)
    windows = {layer.name for layer in layers if is_window(layer.linear)}
    method = next((one.method for one in plan.products if one.name not in windows), "response")
    ranks = Ranks(worth(prepared.analysis, planned(plan.products), layers, keep), solver(method))
    with stages.stage("rebuild", max((layer.wave for layer in layers), default=0) + 1) as tick:
        return rebuild(
            prepared.analysis, slim, keep, layers, wave, collected, data.source, sampling, config.rebuild, tick, ranks
        )


def _chosen(plan: Plan) -> Chosen:
    widths = np.array([len(group.kept) for group in plan.groups], np.int64)
    return Chosen(tuple(g.name for g in plan.groups), widths, "what the plan says")


def _report(loaded: Loaded, config: Config, prepared: Prepared, data: Data, plan: Plan, outcome: Outcome) -> Report:
    report = make_report(loaded, config, prepared, data, plan, outcome)
    methods = {group.name: group.method for group in plan.groups}
    groups = tuple(
        g.model_copy(
            update={"method": methods.get(g.name, ""), "reason": "" if g.name in methods else "not in the plan"}
        )
        for g in report.groups
    )
    notes = () if outcome.solved else (UNSOLVED,) if config.measure else (UNSOLVED, UNMEASURED)
    notes = (*head_notes(prepared), *notes)
    if any(one.method == "ger" for one in plan.products):
        notes = (*notes, UNTRAINED.format("solved layer by layer (as)" if outcome.solved else "singular vectors"))
    reached = 1 - sum(g.kept for g in groups) / max(sum(g.width for g in groups), 1)
    budget = Budget(kind="plan", target=reached, reached=reached)
    return report.model_copy(update={"groups": groups, "budget": budget, "notes": notes})
