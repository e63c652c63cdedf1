"""What could be pruned from a model, before anything is: groups, widths, what they cost, and what is closed and why."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import onnx_ir as ir
from pydantic import BaseModel, ConfigDict

from onnxprune.config import Config, make_config
from onnxprune.costs import CostModel, Float, Widths
from onnxprune.dependency import Analysis, Group
from onnxprune.explain import explain
from onnxprune.model_io import ModelSource, load
from onnxprune.prepare import open_data, prepare
from onnxprune.report import ClosedReport, Totals
from onnxprune.serialise import tensor_bytes

FEW_SAMPLES = 2


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class InputFacts(_Frozen):
    """An input or output: None or a name where a dimension is dynamic."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


class GroupFacts(_Frozen):
    """A group: `macs_share` and `params_share` of the model's go with it if all of it goes; shares of groups overlap.

    `rows` (1: the choice is free) must lose equally many channels each; `names` are what `--keep` and `--only` match.
    """

    name: str
    width: int
    rows: int
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    macs_share: float
    params_share: float
    names: tuple[str, ...]


class Inspection(_Frozen):
    """What `onnxprune inspect` tells.

    `least_macs` and `least_params` are the shares that would remain with half of every open group gone.
    """

    schema_version: Literal[1] = 1
    model: str
    opsets: dict[str, int]
    ir_version: int
    producer: str
    inputs: tuple[InputFacts, ...]
    outputs: tuple[InputFacts, ...]
    nodes: int
    totals: Totals
    least_macs: float
    least_params: float
    groups: tuple[GroupFacts, ...]
    closed: tuple[ClosedReport, ...]
    guesses: tuple[str, ...]
    why: tuple[str, ...] = ()


def inspect(
    model: ModelSource, config: Config | None = None, calib: object = None, why: Sequence[str] = ()
) -> Inspection:
    """Analyse a model on two inputs of `calib`, else made-up ones, whose shapes `config.input_shape` may give.

    Raises BadInput where the model cannot be read or run.
    """
    settings = make_config(**{**(config.model_dump(exclude_unset=True) if config else {}), "samples": FEW_SAMPLES})
    loaded = load(model)
    data = open_data(loaded.model, calib, settings, matched=False)
    prepared = prepare(loaded.model, data, settings, fold=False)
    analysis = prepared.analysis
    costs = prepared.costs
    place = {id(group): index for index, group in enumerate(analysis.groups)}
    shares = _shares(costs)
    halved = _half_widths(costs, {place[id(group)]: group for group in prepared.groups})
    return Inspection(
        model=str(loaded.path or loaded.model.graph.name or "model"),
        opsets=dict(loaded.model.opset_imports),
        ir_version=loaded.model.ir_version,
        producer=f"{loaded.model.producer_name or ''} {loaded.model.producer_version or ''}".strip(),
        inputs=tuple(_facts(v) for v in loaded.model.graph.inputs if not v.is_initializer()),
        outputs=tuple(_facts(v) for v in loaded.model.graph.outputs),
        nodes=len(loaded.model.graph),
        totals=_totals(costs, analysis),
        least_macs=_share(costs.macs, costs.full, halved),
        least_params=float(costs.params(halved)) / costs.came if costs.came else 1.0,
        groups=tuple(_group(group, *shares[place[id(group)]]) for group in prepared.groups),
        closed=tuple(ClosedReport(name=c.name, width=c.width, reason=c.reason) for c in prepared.closed),
        guesses=data.guesses,
        why=tuple(sentence for name in why for sentence in explain(analysis, name)),
    )


def _half_widths(costs: CostModel, open_groups: Mapping[int, Group]) -> Widths:
    """The widths with half of every open group (index → group) gone: the larger half stays, the same in each row."""
    widths = costs.full.copy()
    for index, group in open_groups.items():
        a_row = group.width // group.row_count
        widths[index] = (a_row - a_row // 2) * group.row_count
    return widths


def _share(count: Callable[[Widths], Float], full: Widths, widths: Widths) -> float:
    """What is left of a cost; of a cost that is nothing, all."""
    before, after = float(count(full)), float(count(widths))
    return after / before if before else 1.0


def _totals(costs: CostModel, analysis: Analysis) -> Totals:
    macs, params = float(costs.macs(costs.full)), float(costs.params(costs.full))
    return Totals(macs=round(macs), params=round(params), bytes=tensor_bytes(analysis.model))


def _facts(value: ir.Value) -> InputFacts:
    dims = None if value.shape is None else tuple(d if isinstance(d, int) else d.value for d in value.shape)
    return InputFacts(name=value.name or "", dtype="" if value.dtype is None else value.dtype.name.lower(), shape=dims)


def _shares(costs: CostModel) -> list[tuple[float, float]]:
    """The share of multiply–adds and of parameters that goes with each group."""
    if not costs.full.size:
        return []
    macs, params = costs.each()
    whole = max(float(costs.macs(costs.full)), 1.0), max(float(costs.params(costs.full)), 1.0)
    return list(zip((macs / whole[0]).tolist(), (params / whole[1]).tolist(), strict=True))


def _group(group: Group, macs_share: float, params_share: float) -> GroupFacts:
    return GroupFacts(
        name=group.name,
        width=group.width,
        rows=group.row_count,
        writers=tuple(linear.node.name or "" for linear in group.writers),
        readers=tuple(linear.node.name or "" for linear in group.readers),
        macs_share=macs_share,
        params_share=params_share,
        names=tuple(sorted(group.names)),
    )
