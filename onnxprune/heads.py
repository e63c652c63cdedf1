"""`--head gap`: tails give way to one layer on pooled channels before anything is analysed, scored or pruned."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxprune.calibration.head_sums import Fit, HeadSums, channel_means
from onnxprune.calibration.window import batch_of
from onnxprune.choose import budget_of
from onnxprune.config import Config
from onnxprune.costs import cost_model, parameters
from onnxprune.dependency import Analysis
from onnxprune.errors import BadInput
from onnxprune.graph import Array, every_node
from onnxprune.passes.normalise import normalise
from onnxprune.passes.pool_head import Head, pool_head
from onnxprune.plan import HeadPlan, tensor_from, tensor_text
from onnxprune.prepare import Data, NewHead, Prepared, first_look, fitted, matches, names_of, prepare
from onnxprune.progress import Stages
from onnxprune.report import HeadReport
from onnxprune.runtime import open_session, run
from onnxprune.tails import Tail, find_tails

FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
ENOUGH = "The new head alone meets the budget, so no channel had to go."
MADE_UP = "The new head was fitted on made-up inputs, which tell little of what it should give: use --calib."
Weights = tuple[ir.TensorProtocol, ir.TensorProtocol]


def prepare_headed(
    model: ir.Model, data: Data, config: Config, fold: bool, stages: Stages, planned: Sequence[HeadPlan] = ()
) -> Prepared:
    """`prepare`, of the model with new heads where they are asked for: those `planned`, or else fitted to the data.

    Raises BadInput where no tail can be replaced, `--keep` names a part of one, or a plan's head is another model's.
    """
    head = _new_head(model, data, config, planned, stages) if config.head is not None or planned else None
    with stages.stage("analyse"):
        prepared = prepare(model if head is None else head.model, data, config, fold)
    if head is None:
        return prepared
    prepared = replace(prepared, head=head)
    enough = not planned and _is_enough(prepared, data, config)
    return replace(prepared, head=replace(head, alone=True, notes=(*head.notes, ENOUGH))) if enough else prepared


def _is_enough(prepared: Prepared, data: Data, config: Config) -> bool:
    """Whether the budget is met before any channel goes."""
    kind, share = budget_of(config, data.source.synthetic)
    if kind == "params":
        return parameters(prepared.original) <= share * parameters(prepared.came)
    costs = prepared.costs
    return kind == "macs" and float(costs.macs(costs.full)) <= share * costs.whole("macs")


@dataclass(frozen=True, eq=False)
class _Old:
    """The model as it came: its tails by the name of their target, and the types of the tensors at their ends."""

    analysis: Analysis
    tails: Mapping[str, Tail]
    types: Mapping[str, ir.DataType]
    reasons: Mapping[str, str]


def _new_head(model: ir.Model, data: Data, config: Config, planned: Sequence[HeadPlan], stages: Stages) -> NewHead:
    with stages.stage("analyse"):
        old = _looked_at(first_look(normalise(model), data, config), data)
        costs = cost_model(old.analysis)
        macs = float(costs.macs(costs.full))
    if planned:
        found = {plan.target: _planned(plan, old) for plan in planned}
        reports = tuple(_report(old.tails[target]) for target in found)
    else:
        _require_replaceable(old)
        fits = _fitted(old, fitted(data, old.analysis.trace, macs, config), stages)
        found = {target: _tensors(fit, old.types[target]) for target, (fit, _) in fits.items()}
        reports = tuple(_report(old.tails[target], *fit) for target, fit in fits.items())
    _require_free(old, found, config)
    heads = [_head(old, old.tails[target], *weights) for target, weights in found.items()]
    kept = tuple(f"Output {name!r} keeps its head: {reason}." for name, reason in old.reasons.items())
    notes = kept if planned else (*kept, *((MADE_UP,) if data.source.synthetic else ()))
    plans = tuple(_plan(head) for head in heads)
    return NewHead(pool_head(old.analysis.model, heads), old.analysis.model, macs, plans, reports, notes)


def _looked_at(analysis: Analysis, data: Data) -> _Old:
    """The tails that give real numbers, a row for each input."""
    tails, reasons = find_tails(analysis)
    ends = sorted({value.name or "" for tail in tails for value in (tail.source, tail.target)})
    arrays = run(open_session(analysis.model, outputs=ends), data.sample) if ends else {}
    types = {name: ir.DataType.from_numpy(array.dtype) for name, array in arrays.items()}
    found = {}
    for tail in tails:
        source, target = tail.source.name or "", tail.target.name or ""
        if types[source] in FLOATS and types[target] in FLOATS:
            found[target] = tail
        else:
            reasons |= dict.fromkeys(tail.outputs, f"{source!r} or {target!r} holds quanta, not real numbers")
    return _Old(analysis, found, types, reasons)


def _require_replaceable(old: _Old) -> None:
    if not old.tails:
        told = "; ".join(f"output {name!r}: {reason}" for name, reason in old.reasons.items())
        raise BadInput(f"--head gap finds no tail to replace: {told}")


def _require_free(old: _Old, targets: Collection[str], config: Config) -> None:
    """Raises BadInput where `--keep` names what goes, or another option names nothing else."""
    gone = {node for target in targets for node in old.tails[target].nodes}
    rest = {name for node in every_node(old.analysis.model) if node not in gone for name in names_of(node)}
    for option, patterns in (("--keep", config.keep), ("--only", config.only), ("--ratios", config.ratios)):
        for pattern in patterns:
            named = sorted(node.name or "" for node in gone if matches(names_of(node), [pattern]))
            if named and (option == "--keep" or not matches(rest, [pattern])):
                raise BadInput(f"{option} {pattern!r} names {named[0]!r}, which a new head takes the place of")


def _fitted(old: _Old, data: Data, stages: Stages) -> dict[str, tuple[Fit, int]]:
    """By target: the layer that comes nearest to what it holds in the original, and on how many inputs."""
    sums = {target: HeadSums(tail.channels, tail.numbers) for target, tail in old.tails.items()}
    ends = sorted({value.name or "" for tail in old.tails.values() for value in (tail.source, tail.target)})
    session = open_session(old.analysis.model, outputs=ends)
    with stages.stage("head", data.batches) as tick:
        for feeds in data.source.batches():
            values, batch = run(session, feeds), batch_of(feeds, data.axes)
            for target, own in sums.items():
                own.add(*_rows(old.tails[target], values, batch))
            tick()
        return {target: (own.solve(len(old.tails[target].shape) == 2), own.count) for target, own in sums.items()}


def _rows(tail: Tail, values: Mapping[str, Array], batch: int) -> tuple[Array, Array]:
    """(batch, channels) and (batch, numbers)."""
    source, target = values[tail.source.name or ""], values[tail.target.name or ""]
    if len(source) != batch or len(target) != batch:
        raise BadInput(f"--head gap: {tail.source.name!r} {list(source.shape)} has no row for each of {batch} inputs")
    x, y = channel_means(source, tail.axis), target.reshape(batch, -1).astype(np.float64)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise BadInput(f"--head gap: {tail.source.name!r} or {tail.target.name!r} is not finite on some input")
    return x, y


def _head(old: _Old, tail: Tail, weight: ir.TensorProtocol, bias: ir.TensorProtocol) -> Head:
    source, target = tail.source.name or "", tail.target.name or ""
    rank = len(old.analysis.trace.shape(tail.source))
    cast = old.types[source] != old.types[target]
    return Head(source, rank, tail.axis, target, tail.shape[1:], weight, bias, cast)


def _tensors(fit: Fit, dtype: ir.DataType) -> Weights:
    weight, bias = (ir.tensor(array.astype(dtype.numpy()), dtype=dtype) for array in (fit.weight, fit.bias))
    return weight, bias


def _report(tail: Tail, fit: Fit | None = None, samples: int = 0) -> HeadReport:
    return HeadReport(
        outputs=tail.outputs,
        source=tail.source.name or "",
        channels=tail.channels,
        numbers=tail.numbers,
        samples=samples,
        ridge=None if fit is None else fit.ridge,
        error=None if fit is None else fit.error,
        same_class=None if fit is None else fit.same_class,
    )


def _plan(head: Head) -> HeadPlan:
    weight, bias = tensor_text(head.weight), tensor_text(head.bias)
    return HeadPlan(source=head.source, axis=head.axis, target=head.target, weight=weight, bias=bias)


def _planned(plan: HeadPlan, old: _Old) -> Weights:
    """The weights that a plan holds. Raises BadInput where the model has no such tail."""
    tail = old.tails.get(plan.target)
    if tail is None or (tail.source.name, tail.axis) != (plan.source, plan.axis):
        raise BadInput(f"the plan's new head from {plan.source!r} to {plan.target!r}: this model has no such tail")
    weight, bias = tensor_from(plan.weight), tensor_from(plan.bias)
    if (tuple(weight.shape), tuple(bias.shape)) != ((tail.numbers, tail.channels), (tail.numbers,)):
        raise BadInput(
            f"the plan's new head makes {list(weight.shape)[:1]} of {list(weight.shape)[1:]} numbers; this model needs "
            f"{tail.numbers} of {tail.channels} there"
        )
    return weight, bias
