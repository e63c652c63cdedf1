"""`fold`: masks, gates and zeros that a model carries become plain weights, and dead channels go; exact, and proved."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import onnx_ir as ir
from pydantic import BaseModel, ConfigDict

from onnxprune.config import Config, make_config
from onnxprune.costs import cost_model
from onnxprune.dependency import Analysis, analyse
from onnxprune.errors import ProofFailed
from onnxprune.functions import analysed
from onnxprune.graph import Array
from onnxprune.model_io import ModelSource, like, load
from onnxprune.op_rules.steady import Steady
from onnxprune.passes.add_bias import add_bias
from onnxprune.passes.fold_batchnorm import fold_batchnorm, with_zero_norm
from onnxprune.passes.fold_constants import drop_neutral, fold_constants
from onnxprune.passes.fold_gates import FoldedGate, fold_gates
from onnxprune.passes.fold_mask import LAST, Exact, exact, remove_exactly, without_bias
from onnxprune.passes.normalise import normalise
from onnxprune.prepare import open_data
from onnxprune.report import ClosedReport, Totals
from onnxprune.serialise import tensor_bytes
from onnxprune.steady import steady_channels
from onnxprune.trace import Trace, trace
from onnxprune.verify import prove, prove_same

FEW_SAMPLES = 2
NOTHING = (
    "Nothing was folded: no constant factor can go into a weight, no factor of a BatchNormalization is zero, and no "
    "channel that can be removed has zeros alone in its weights."
)
Feeds = Mapping[str, Array]
Refused = dict[str, str]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class GateReport(_Frozen):
    """A node that multiplied by so many constants: the layers whose weights took them in, or why it stays."""

    name: str
    factors: int
    into: tuple[str, ...]
    reason: str


class FoldedGroup(_Frozen):
    """A group that lost channels: `dead` ones that nothing read, and `constant` ones that went into biases."""

    name: str
    width: int
    dead: int
    constant: int


class FoldReport(_Frozen):
    """What `onnxprune fold` did; `stuck` are channels that hold one number, or are dead, and stay all the same.

    `norms` are layers that took in a BatchNormalization with a factor of zero, `constants` results that became
    constants, `dropped` nodes that changed nothing. `notes` say why, where nothing was folded.
    """

    schema_version: Literal[1] = 1
    model: str
    gates: tuple[GateReport, ...]
    norms: tuple[str, ...]
    constants: tuple[str, ...]
    dropped: tuple[str, ...]
    groups: tuple[FoldedGroup, ...]
    stuck: tuple[ClosedReport, ...]
    before: Totals
    after: Totals
    proof: float
    guesses: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Folded:
    """What `fold` returns: the model, of the kind that was given, and the report."""

    model: Any
    report: FoldReport


@dataclass(eq=False)
class _Done:
    """What was folded so far."""

    gates: dict[str, FoldedGate] = field(default_factory=dict)
    norms: list[str] = field(default_factory=list)
    constants: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    groups: dict[str, FoldedGroup] = field(default_factory=dict)
    biased: set[str] = field(default_factory=set)
    stuck: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def add(self, analysis: Analysis, found: Exact) -> None:
        """Count the channels of one round to those of the rounds before it."""
        lasting = {key: count for key, count in self.stuck.items() if key[1] == LAST}  # no group any more
        self.stuck = lasting | dict(found.stuck)
        for group in analysis.groups:
            dead, steady = found.dead[group.name], found.steady[group.name]
            old = self.groups.get(group.name) or FoldedGroup(name=group.name, width=group.width, dead=0, constant=0)
            if dead or steady:
                new = {"dead": old.dead + dead, "constant": old.constant + steady}
                self.groups[group.name] = old.model_copy(update=new)


def fold(model: ModelSource, *, calib: object = None, config: Config | None = None, **options: Any) -> Folded:
    """Fold what a model masks into plain weights, and remove the channels that are dead or constant then.

    Constant factors go into weights, BatchNormalizations with factors of zero into the layer before them. A channel
    goes where every weight that reads it is zero, or where it holds one number whatever the input, which goes into the
    biases behind it. The outputs stay the same but for rounding, proved on made-up inputs or two of `calib`. Options
    are the fields of `Config` that tell of inputs.

    Raises BadInput where the model cannot be read or run, or ProofFailed; the model given is never changed.
    """
    base = config.model_dump(exclude_unset=True) if config is not None else {}
    settings = make_config(**{**base, **options, "samples": FEW_SAMPLES})
    loaded = load(model)
    data = open_data(loaded.model, calib, settings, matched=False)

    def traced(one: ir.Model) -> Trace:
        return trace(one, data.sample)

    first = analysed(normalise(loaded.model), traced)
    done = _Done()
    last, proof = _folded(first, data.sample, done)
    report = _report(str(loaded.path or loaded.model.graph.name or "model"), first, last, done, proof, data.guesses)
    return Folded(like(last.model, loaded), report)


def _folded(first: Analysis, feeds: Feeds, done: _Done) -> tuple[Analysis, float]:
    """The folded model, analysed, and how far its outputs are from the original's."""
    analysis, refused = _plain(first, feeds, done), dict[str, str]()
    while True:
        steady = steady_channels(analysis)
        found = exact(analysis, steady, refused)
        if bare := set(without_bias(analysis, found.shifts)) - done.biased:
            done.biased |= bare
            analysis = _again(add_bias(analysis.model, bare), feeds)
        elif found.any:
            slim = remove_exactly(analysis, found)
            if failed := _failed(analysis, slim, found, feeds):
                alone = _refused(analysis, steady, refused, feeds)
                refused |= alone or {group.name: failed for group in analysis.groups}
                continue
            done.add(analysis, found)
            analysis = _again(slim, feeds)
        else:
            model, names = fold_constants(analysis, steady)
            if not names:
                break
            done.constants += names
            analysis = _again(model, feeds)
    done.add(analysis, found)
    model, done.dropped = drop_neutral(analysis)
    analysis = _again(model, feeds) if done.dropped else analysis
    return analysis, prove_same(first, analysis.model, feeds)


def _refused(analysis: Analysis, steady: Mapping[ir.Value, Steady], refused: Refused, feeds: Feeds) -> Refused:
    """The groups that cannot be proved to lose what they could, each by itself."""
    reasons = {}
    for name in exact(analysis, steady, refused).groups():
        alone = exact(analysis, steady, refused, name)
        if failed := _failed(analysis, remove_exactly(analysis, alone), alone, feeds):
            reasons[name] = failed
    return reasons


def _failed(analysis: Analysis, slim: ir.Model, found: Exact, feeds: Feeds) -> str:
    """Why a removal cannot be proved: what the bodies give, and the outputs themselves; empty where it can."""
    try:
        prove_same(analysis, slim, feeds)
        if any(True for _ in analysis.model.graph.subgraphs()):
            prove(analysis, slim, found.keep, feeds)
    except ProofFailed as error:
        return f"its removal cannot be proved: {error}"
    return ""


def _plain(analysis: Analysis, feeds: Feeds, done: _Done) -> Analysis:
    """The model with constant factors, and BatchNormalizations with a factor of zero, folded into weights."""
    while True:
        model, gates = fold_gates(analysis)
        done.gates |= {one.name: one for one in gates}
        if not any(one.into for one in gates):
            break
        analysis = _again(model, feeds)
    done.norms = with_zero_norm(analysis.model)
    return _again(fold_batchnorm(analysis.model, done.norms), feeds) if done.norms else analysis


def _again(model: ir.Model, feeds: Feeds) -> Analysis:
    return analyse(model, trace(model, feeds))


def _totals(analysis: Analysis) -> Totals:
    costs = cost_model(analysis)
    macs, params = float(costs.macs(costs.full)), float(costs.params(costs.full))
    return Totals(macs=round(macs), params=round(params), bytes=tensor_bytes(analysis.model))


def _report(
    name: str, first: Analysis, last: Analysis, done: _Done, proof: float, guesses: tuple[str, ...]
) -> FoldReport:
    changed = done.groups or done.norms or done.constants or done.dropped or any(g.into for g in done.gates.values())
    return FoldReport(
        model=name,
        gates=tuple(
            GateReport(name=g.name, factors=g.factors, into=g.into, reason=g.reason) for g in done.gates.values()
        ),
        norms=tuple(done.norms),
        constants=tuple(done.constants),
        dropped=tuple(done.dropped),
        groups=tuple(done.groups.values()),
        stuck=tuple(ClosedReport(name=n, width=width, reason=reason) for (n, reason), width in done.stuck.items()),
        before=_totals(first),
        after=_totals(last),
        proof=proof,
        guesses=guesses,
        notes=() if changed else (NOTHING,),
    )
