"""From a user's model and data to an analysed graph: pre-pass, data, trace, groups, and what must stay as it is."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from math import prod

import onnx_ir as ir

from onnxprune.calibration.batchnorm_match import match
from onnxprune.calibration.branches import branches_taken
from onnxprune.calibration.inputs import batch_axes, fixed_batch
from onnxprune.calibration.recorded import Recorded
from onnxprune.calibration.source import ImageOptions, InputSpec, Source, Trial, input_specs, open_calibration
from onnxprune.calibration.window import Window, batch_of, cut
from onnxprune.config import Config
from onnxprune.costs import CostModel, cost_model
from onnxprune.dependency import Analysis, Closed, Group, analyse
from onnxprune.distilled import PASSES, distil
from onnxprune.errors import BadInput
from onnxprune.functions import analysed
from onnxprune.graph import Array, every_node
from onnxprune.inserted import sampled_layers, with_samplers, with_states
from onnxprune.layers import solvable
from onnxprune.passes.add_bias import add_bias
from onnxprune.passes.fold_batchnorm import fold_batchnorm
from onnxprune.passes.normalise import normalise
from onnxprune.pieces import Seen
from onnxprune.plan import HeadPlan
from onnxprune.report import HeadReport
from onnxprune.trace import Trace, trace

DEFAULT_SAMPLES = 512
HELD_OUT = 64
FEWEST_SAMPLES, PATIENCE = 64, 2e12
"""Unless told otherwise, use at least so many inputs, and at most so many multiply–adds a pass."""
PATIENCE_TO_MAKE = 3e13
"""The same for making inputs that are distilled from the model."""
MACS_AN_ELEMENT = 12
"""An element of an activation takes as long as so many multiply–adds: 0.15 ns beside 0.0125 (onnxruntime, 2 cores;
layout_cdla and nudenet; less in networks of wide layers, 0.5 in a small one)."""
FEWEST_JUDGED, JUDGED = 16, 3.5e10
"""Compare on at least so many of the inputs laid aside, and on no more than cost so many multiply–adds."""
LARGEST_ACTIVATION = 32_000_000
"""Bytes of one tensor that the system hands out again; larger ones are new pages each time, which took half a sweep."""
TRACE_BATCH = 2


@dataclass(frozen=True, eq=False)
class Data:
    """Calibration inputs: those to solve on, those kept apart (empty where there are too few), and what was guessed.

    `made` holds synthetic inputs, of which the others are parts; `seen` is what trying the model on inputs showed;
    to make one takes as long as so many `passes` of the model.
    """

    source: Source
    apart: Source
    held_out: bool
    sample: Mapping[str, Array]
    axes: Mapping[str, int | None]
    fixed_batch: bool
    batches: int
    guesses: tuple[str, ...]
    made: Recorded | None = None
    seen: Seen | None = None
    passes: int = 0
    specs: tuple[InputSpec, ...] = ()


@dataclass(frozen=True, eq=False)
class NewHead:
    """What took the place of tails: the model with it, and the `original` one, right after the pre-pass.

    `macs` are the original's; `alone`: with it the budget is met, and nothing else needs to go.
    """

    model: ir.Model
    original: ir.Model
    macs: float
    plans: tuple[HeadPlan, ...]
    reports: tuple[HeadReport, ...]
    notes: tuple[str, ...] = ()
    alone: bool = False


@dataclass(frozen=True, eq=False)
class Prepared:
    """The graph that the passes work on: `original` right after the pre-pass, `analysis` of what will be pruned.

    `frozen` names the layers whose constants stay bit-identical (their inputs aside); `groups` may lose units. With a
    new `head`, `original` has that, too. `wide` is the same before the first cut, where this is a later one.
    """

    original: ir.Model
    analysis: Analysis
    groups: tuple[Group, ...]
    closed: tuple[Closed, ...]
    frozen: frozenset[str]
    wide: "Prepared | None" = None
    head: NewHead | None = None

    @property
    def first(self) -> "Prepared":
        """The model before it was cut for the first time: that which options name, and which shares are of."""
        return self.wide or self

    @property
    def came(self) -> ir.Model:
        """The model as it came: what is compared with, learned from, and what budgets are shares of."""
        return self.original if self.head is None else self.head.original

    @property
    def alone(self) -> bool:
        """Whether the new head meets the budget, so that nothing else needs to go."""
        return self.head is not None and self.head.alone

    @cached_property
    def costs(self) -> CostModel:
        """What widths cost, beside what they did before the first cut, and what the model as it came does."""
        wide = None if self.wide is None else self.wide.costs
        return cost_model(self.analysis, self.came, wide, None if self.head is None else self.head.macs)


def open_data(model: ir.Model, calib: object, config: Config, matched: bool = True) -> Data:
    """Open the calibration data, and lay some aside to judge with; synthetic ones are `matched` to the model.

    Raises BadInput where data and model do not fit.
    """
    specs = input_specs(model)
    image = ImageOptions(config.image_size, config.mean, config.std, config.layout, config.channel_order)
    wanted = config.samples or DEFAULT_SAMPLES
    batch = min(config.batch_size, wanted)
    trial = Trial(model)
    opened = open_calibration(
        calib,
        specs,
        config.input_shape,
        samples=wanted + HELD_OUT,
        batch_size=batch,
        seed=config.seed,
        image=image,
        trial=trial,
    )
    with _blamed(opened.guesses):
        source, axes = match(model, opened.source) if matched else opened.source, batch_axes(opened.specs)
        dear = matched and isinstance(calib, str) and calib == "distilled"
        source = distil(model, source) if dear else source
    made = Recorded(source) if source.synthetic else None
    source = made or source
    size = fixed_batch(opened.specs) or 1
    apart = _apart(source.samples, wanted, size)
    judged = apart or max(size, min(source.samples, HELD_OUT) // size * size)
    first = next(iter(source.batches()))
    sample = first if fixed_batch(opened.specs) else cut(first, axes, 0, min(TRACE_BATCH, batch_of(first, axes)))
    solve = Window(source, axes, 0, source.samples - apart)
    judge = Window(source, axes, source.samples - judged, source.samples)
    batches = -(-solve.samples // batch_of(first, axes))
    return Data(
        source=solve,
        apart=judge,
        held_out=apart > 0,
        sample=sample,
        axes=axes,
        fixed_batch=fixed_batch(opened.specs) is not None,
        batches=batches,
        guesses=tuple(opened.guesses),
        made=made,
        seen=trial.seen,
        passes=PASSES if dear else 0,
        specs=tuple(opened.specs),
    )


def fitted(data: Data, trace: Trace, macs: float, config: Config) -> Data:
    """The data, in as many inputs and as large batches as suit the model, where the user did not say."""
    elements = sum(prod(shape) for shape in trace.shapes.values()) / max(trace.batch, 1)
    effort = macs + MACS_AN_ELEMENT * elements
    return _in_batches(_few_judged(_affordable(data, effort, config), macs), trace, config)


def _few_judged(data: Data, macs: float) -> Data:
    """Fewer inputs to compare on, where the model is large."""
    most = max(FEWEST_JUDGED, int(JUDGED / max(macs, 1.0)))
    if data.fixed_batch or data.apart.samples <= most:
        return data
    return replace(data, apart=Window(data.apart, data.axes, 0, most))


def _affordable(data: Data, effort: float, config: Config) -> Data:
    """What a patient user waits for: large models see fewer inputs."""
    patience = PATIENCE_TO_MAKE / data.passes if data.passes else PATIENCE
    most = max(FEWEST_SAMPLES, int(patience / max(effort, 1.0)))
    if config.samples is not None or data.fixed_batch or data.source.samples <= most:
        return data
    source = Window(data.source, data.axes, 0, most)
    batches = -(-most * data.batches // data.source.samples)
    said = f"{most} of {data.source.samples} inputs are used, for a pass is expensive: --samples takes more"
    return replace(data, source=source, batches=batches, guesses=(*data.guesses, said))


def _in_batches(data: Data, trace: Trace, config: Config) -> Data:
    """Halve the batches until no activation of one is too large."""
    largest = max((prod(shape) for shape in trace.shapes.values()), default=1) * 4 // max(trace.batch, 1)
    parts = 1
    while parts < config.batch_size and largest * config.batch_size // parts > LARGEST_ACTIVATION:
        parts *= 2
    if parts == 1 or data.fixed_batch or "batch_size" in config.model_fields_set:
        return data
    most, samples = max(1, config.batch_size // parts), data.source.samples
    source, apart = (Window(x, data.axes, 0, x.samples, most) for x in (data.source, data.apart))
    whole, rest = divmod(samples, config.batch_size)
    return replace(data, source=source, apart=apart, batches=whole * -(-config.batch_size // most) + -(-rest // most))


def _apart(available: int, wanted: int, batch: int) -> int:
    """How many samples to keep from the solvers: what there is beyond those asked for, else a sixteenth."""
    spare = available - wanted if available > wanted else available // 16
    return min(spare, HELD_OUT) // batch * batch


def prepare(model: ir.Model, data: Data, config: Config, fold: bool) -> Prepared:
    """Pre-pass, trace and analysis. With `fold`, layers that may be solved get their BatchNorm folded in and a bias.

    Raises BadInput where `--keep` or `--only` match nothing, or the model does not run on the data.
    """
    normal = normalise(model)
    analysis = first_look(normal, data, config)
    original = analysis.model
    frozen = _frozen(original, analysis, config)
    analysis, products = with_states(analysis, frozen, config.open)
    frozen |= products
    if fold and analysis.groups:
        ours = {linear.node.name or "" for linear in analysis.linears} - frozen
        analysis = _again(fold_batchnorm(analysis.model, ours), data, analysis.trace, config)
        ours = {x.node.name or "" for x in solvable(analysis)} - frozen
        analysis = _again(add_bias(analysis.model, ours), data, analysis.trace, config)
    if sampled := sampled_layers(analysis, frozen, config.sampler):
        analysis = analyse(*with_samplers(analysis, sampled), config.open)
    require_matches((normal, original, analysis.model), config)
    groups, closed = choosable(analysis.groups, config)
    return Prepared(original, analysis, groups, (*analysis.closed, *closed), frozen)


def first_look(normal: ir.Model, data: Data, config: Config) -> Analysis:
    """The analysis of a model right after the pre-pass. Raises BadInput where it does not run on the data."""
    kept = {node.name or "" for node in every_node(normal) if matches([node.name or ""], config.keep)}
    return analysed(normal, lambda inlined: traced(inlined, data), kept, config.open)


def traced(model: ir.Model, data: Data) -> Trace:
    """What a model does with a few of the inputs, and the branches that all take. Raises BadInput where it fails."""
    with _blamed(data.guesses):
        seen = trace(model, data.sample, data.seen)
    taken = branches_taken(model, data.source)
    return replace(seen, batch=batch_of(data.sample, data.axes), taken=taken)


@contextmanager
def _blamed(guesses: Sequence[str]) -> Iterator[None]:
    """A model that does not run may not do so because of what was guessed: add that to the error."""
    try:
        yield
    except BadInput as error:
        raise BadInput("; ".join([str(error), *guesses])) from error


def _again(model: ir.Model, data: Data, seen: Trace, config: Config) -> Analysis:
    """The analysis of a rewritten model; a rewrite keeps the shape of every value that keeps its name."""
    return analyse(model, seen if seen.covers(model) else traced(model, data), config.open)


def matches(names: Iterable[str], patterns: Iterable[str]) -> bool:
    """Whether any name fits any glob."""
    globs = list(patterns)
    return any(name == glob or fnmatchcase(name, glob) for name in names for glob in globs)


def _frozen(model: ir.Model, analysis: Analysis, config: Config) -> frozenset[str]:
    """The nodes that `--keep` names, by their own name or that of an input constant or an output."""
    kept = {node.name or "" for node in every_node(model) if config.keep and matches(names_of(node), config.keep)}
    if config.only:
        inside = [g for g in analysis.groups if matches(g.names, config.only)]
        readers = {linear.node.name or "" for group in inside for linear in group.readers}
        writers = {linear.node.name or "" for group in inside for linear in group.writers}
        named = {linear.node.name or "" for linear in analysis.linears if matches(names_of(linear.node), config.only)}
        around = readers | writers if config.method != "none" else set()
        kept |= {linear.node.name or "" for linear in analysis.linears} - around - named
    return frozenset(kept | {_normed_by(node) for node in model.graph if node.name in kept} - {""})


def require_matches(models: Sequence[ir.Model], config: Config) -> None:
    """Raises BadInput where an option names what is in none of the models."""
    every = {name for model in models for node in every_node(model) for name in names_of(node)}
    for option, patterns in (("--keep", config.keep), ("--only", config.only), ("--ratios", config.ratios)):
        for pattern in patterns:
            if not matches(every, [pattern]):
                raise BadInput(f"{option} {pattern!r} matches no node or tensor; `onnxprune inspect` lists the names")


def names_of(node: ir.Node) -> list[str]:
    """What an option may call a node: its name, its constants, or what it computes."""
    constants = [v.name or "" for v in node.inputs if v is not None and v.const_value is not None]
    return [node.name or "", *constants, *(v.name or "" for v in node.outputs)]


def _normed_by(node: ir.Node) -> str:
    """The convolution that a kept BatchNormalization could be folded into."""
    source = node.inputs[0].producer() if node.op_type == "BatchNormalization" and node.inputs[0] is not None else None
    return source.name or "" if source is not None else ""


def choosable(every: Iterable[Group], config: Config) -> tuple[tuple[Group, ...], list[Closed]]:
    """The groups that may lose units, and why the others may not."""
    groups, closed = [], []
    for group in every:
        if config.keep and matches(group.names, config.keep):
            closed.append(Closed(group.name, group.width, "--keep names it"))
        elif config.method == "none":
            closed.append(Closed(group.name, group.width, "--method none"))
        elif config.only and not matches(group.names, config.only):
            closed.append(Closed(group.name, group.width, "--only does not name it"))
        elif group.width == 1 or group.width == group.row_count:
            closed.append(Closed(group.name, group.width, "nothing would be left of it"))
        else:
            groups.append(group)
    return tuple(groups), closed
