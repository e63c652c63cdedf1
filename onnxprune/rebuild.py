"""Sweep 2: front to back on the pruned network's own activations, solve every layer toward the original's outputs."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir

from onnxprune.adjust import adjust_first
from onnxprune.branches import take_branches
from onnxprune.calibration.collect import Collected
from onnxprune.calibration.frontier import Frontier
from onnxprune.calibration.rows import Rows, read, written
from onnxprune.calibration.sampling import Sampling
from onnxprune.calibration.source import Source
from onnxprune.constants import constant_array
from onnxprune.dependency import Analysis, Keep
from onnxprune.graph import Array, array_of, captured_values, constants, values_by_name
from onnxprune.layers import Layer
from onnxprune.low_rank.approximate import AS_ROWS, METHODS
from onnxprune.low_rank.convolutions import by_responses
from onnxprune.low_rank.factors import Factors, Form
from onnxprune.op_rules.stored import stored, write
from onnxprune.pairs import find_pairs
from onnxprune.parallel import each
from onnxprune.ranks import is_window
from onnxprune.serialise import release_all
from onnxprune.solve import Block, Fit, reservoir_share, worst
from onnxprune.weights import from_matrix, from_vector, to_matrix, to_vector

Tick = Callable[[], None]


@dataclass(frozen=True)
class Rebuilt:
    """One layer's relative error on held-out rows, before and after it was solved."""

    name: str
    before: float
    after: float


@dataclass(frozen=True, eq=False)
class Ranks:
    """The layers that become products, of which form, and the method that finds the factors of dense ones."""

    of: Mapping[str, Form] = field(default_factory=dict)
    method: str = "response"

    def reads_rows(self) -> bool:
        """Whether the method goes over rows again and again."""
        return self.method not in ("lrd", "response")


@dataclass(frozen=True, eq=False)
class Rebuild:
    """The model with its layers solved again (products multiplied out), what that gained, and the factors by layer.

    `disk_bytes` of temporary files were needed.
    """

    model: ir.Model
    solved: list[Rebuilt]
    factors: Mapping[str, Factors]
    disk_bytes: int


def rebuild(
    analysis: Analysis,
    slim: ir.Model,
    keep: Keep,
    layers: Sequence[Layer],
    wave: dict[str, int],
    collected: Collected,
    source: Source,
    sampling: Sampling,
    mode: Literal["lsq", "scale", "none"],
    tick: Tick = lambda: None,
    ranks: Ranks = Ranks(),
) -> Rebuild:
    """The slim model with its layers solved again.

    `lsq`: every layer whose input differs from the original's is solved, so that errors do not add up along the way.
    `scale`: the layers that lost input channels get one factor a channel (ThiNet). Those in `ranks` get a weight of
    low rank in any case.
    """
    model = take_branches(slim, analysis.trace.taken)
    values = values_by_name(model)
    products = {layer.linear.y.name for layer in layers if layer.name in ranks.of}
    changed = downstream(analysis, keep, products)
    stale = {layer.name for layer in layers if layer.linear.x.name in changed and mode != "none"}
    if mode == "scale":
        stale -= {layer.name for layer in layers if np.all(keep[layer.linear.features])}
    touched = [layer for layer in layers if layer.name in stale or layer.name in ranks.of]
    frontier = Frontier(model, wave, source)
    found = find_pairs(layers) if mode == "lsq" else {}
    pairs = {name: pair for name, pair in found.items() if pair.first.name not in ranks.of and name in stale}
    needs = _batches(touched, sampling)
    done: list[Rebuilt] = []
    factors: dict[str, Factors] = {}

    def solve(one: tuple[Layer, list[Block]]) -> Rebuilt:
        layer, blocks = one
        if layer.name not in ranks.of:
            return _solve(model, layer, keep, blocks, values, mode)
        blind = (ranks.method == "lrd" and not is_window(layer.linear)) or not blocks[0].solvable
        solved = _solve(model, layer, keep, blocks, values, mode) if blind and layer.name in stale else None
        rebuilt, factors[layer.name] = _approximate(layer, blocks[0], values, ranks, blind, solved)
        return rebuilt

    for number, batches in enumerate(needs):
        ready = [layer for layer in touched if layer.wave == number]
        for pair in (pairs[layer.name] for layer in ready if layer.name in pairs):
            adjust_first(pair, len(pairs), keep, values, frontier, collected, sampling)
        blocks = _summed(ready, keep, collected, sampling, frontier, number, batches, ranks)
        done += each(solve, zip(ready, blocks, strict=True))
        tick()
    release_all(analysis.model)
    rebuilt = _with_constants(slim, values) if analysis.trace.taken else model
    return Rebuild(rebuilt, done, factors, frontier.peak_bytes + collected.disk_bytes)


def _summed(
    ready: Sequence[Layer],
    keep: Keep,
    collected: Collected,
    sampling: Sampling,
    frontier: Frontier,
    number: int,
    batches: int,
    ranks: Ranks,
) -> list[list[Block]]:
    """Run step `number` and sum the rows of its layers, block by block, on the lanes that run it."""
    blocks = [_blocks(layer, keep, sampling, layer.name in ranks.of and ranks.reads_rows()) for layer in ready]
    wanted = {v.name or "" for layer in ready for v in (layer.linear.x, layer.partner) if v is not None}

    def add(batch: int, values: dict[str, Array]) -> None:
        for layer, own in zip(ready, blocks, strict=True):
            if batch < sampling.used(layer.linear):
                _add(own, layer, keep, collected, values, sampling, batch)

    frontier.step(number, batches, sorted(wanted), add)
    return blocks


def _batches(layers: Sequence[Layer], sampling: Sampling) -> list[int]:
    """How many batches each step runs: what its layers need, and no batch leaves that a later step wants again."""
    steps = max((layer.wave for layer in layers), default=-1) + 1
    needs = [max((sampling.used(x.linear) for x in layers if x.wave == step), default=0) for step in range(steps)]
    have = 0
    for step in range(steps):
        have = max(needs[step], min(have, max(needs[step:])))
        needs[step] = have
    return needs


def _with_constants(slim: ir.Model, values: Mapping[str, ir.Value]) -> ir.Model:
    """The slim model with the constants of these values, by name: its branches are where they were."""
    model = slim.clone()
    for value in constants(model):
        if (solved := values.get(value.name or "")) is not None:
            value.const_value = solved.const_value
    return model


def downstream(analysis: Analysis, keep: Keep, others: Collection[str | None] = ()) -> set[str]:
    """The values that a removal changes: the labelled ones that lose channels, and all that is computed from them.

    The same for `others`, which change for another reason.
    """
    gone = [slot for slot in analysis.slots if slot.reader is None and not np.all(keep[slot.label.atoms])]
    changed = {slot.value.name for slot in gone} | set(others)
    for node in analysis.flat.graph:
        if any(v is not None and v.name in changed for v in (*node.inputs, *captured_values(node))):
            changed.update(value.name for value in node.outputs)
    return {name for name in changed if name}


def _blocks(layer: Layer, keep: Keep, sampling: Sampling, alternates: bool) -> list[Block]:
    linear = layer.linear
    rows = int(sampling.rows(linear))
    made = []
    for features, outputs in zip(keep[linear.features], keep[linear.outputs], strict=True):
        width, height = int(features.sum()), int(outputs.sum())
        stays = min(1.0, AS_ROWS / rows) if alternates else reservoir_share(width, height, rows, sampling.layers)
        made.append(Block(width, height, rows, layer.clipped, stays, sampling.allowance, alternates))
    return made


def _add(
    blocks: Sequence[Block],
    layer: Layer,
    keep: Keep,
    collected: Collected,
    values: dict[str, Array],
    sampling: Sampling,
    batch: int,
) -> None:
    """Give each block of the layer its inputs, targets and partner in batch number `batch`."""
    linear = layer.linear
    x = values[linear.x.name or ""]
    where = sampling.positions(linear, x.shape, batch)
    outputs = keep[linear.outputs]
    ends = np.cumsum(outputs.sum(axis=1))[:-1]
    targets = np.split(collected.targets[layer.name][batch][:, outputs.reshape(-1)], ends, axis=1)
    partners: list[Rows | None] = [None] * linear.groups
    if layer.partner is not None:
        partners = list(np.split(written(linear, values[layer.partner.name or ""], where), ends, axis=1))
    for block, rows, target, partner in zip(blocks, read(linear, x, where), targets, partners, strict=True):
        block.add(rows, target, partner, batch)


def _solve(
    model: ir.Model, layer: Layer, keep: Keep, blocks: Sequence[Block], values: dict[str, ir.Value], mode: str
) -> Rebuilt:
    linear = layer.linear
    weight = values[linear.weight.name or ""]
    assert layer.bias is not None
    bias = values[layer.bias.name or ""]
    before, shift = constant_array(model, weight), constant_array(model, bias)
    priors = to_matrix(linear, before).astype(np.float64)
    biases = np.split(to_vector(linear, shift).astype(np.float64), linear.groups)
    units = [features[keep[features]] for features in linear.features]
    solved = [
        block.solve(prior, own) if mode == "lsq" else block.scale(prior, own, unit)
        for block, prior, own, unit in zip(blocks, priors, biases, units, strict=True)
    ]
    matrix = np.stack([solution.weight for solution in solved])
    old = [(one, one.const_value) for one in (stored(weight), stored(bias)) if one is not None]
    write(weight, from_matrix(linear, matrix, before.shape))
    write(bias, from_vector(linear, np.concatenate([s.bias for s in solved]), shift))
    error, after = worst(solved)
    if weight.const_value is None:
        after = _rounded_error(model, layer, blocks, weight, bias)
    if weight.const_value is None and after > error:  # rounding cost more than solving gained
        for one, tensor in old:
            one.const_value = tensor
        after = error
    return Rebuilt(layer.name, error, after)


def _approximate(
    layer: Layer,
    block: Block,
    values: Mapping[str, ir.Value],
    ranks: Ranks,
    blind: bool,
    solved: Rebuilt | None,
) -> tuple[Rebuilt, Factors]:
    """Write a weight of low rank, and say what its factors are; `blind`: of the weight as it stands, solved or not."""
    assert layer.bias is not None
    linear, weight, bias = layer.linear, values[layer.linear.weight.name or ""], values[layer.bias.name or ""]
    shape, shift = array_of(weight).shape, array_of(bias)
    prior = to_matrix(linear, array_of(weight))[0].astype(np.float64)
    own = to_vector(linear, shift).astype(np.float64)
    fit = block.fit(prior) if block.solvable and solved is None else None
    before = block.error(prior, own) if solved is None else solved.before
    form, method = ranks.of[layer.name], METHODS["lrd" if blind else ranks.method]
    if is_window(linear):
        factors, vector = by_responses(fit, prior, own, form, linear.kernel, layer.clipped)
    else:
        factors, vector = method(fit, prior, own, form.rank, layer.activation)
    product = factors.product()
    write(weight, from_matrix(linear, product[None], shape))
    write(bias, from_vector(linear, vector, shift))
    return Rebuilt(layer.name, before, block.error(product, vector)), factors


def _rounded_error(model: ir.Model, layer: Layer, blocks: Sequence[Block], weight: ir.Value, bias: ir.Value) -> float:
    """The largest error of a block, now that its solution has become quanta."""
    matrices = to_matrix(layer.linear, constant_array(model, weight)).astype(np.float64)
    vector = to_vector(layer.linear, constant_array(model, bias)).astype(np.float64)
    shifts = np.split(vector, layer.linear.groups)
    return max(block.error(*own) for block, *own in zip(blocks, matrices, shifts, strict=True))


def fits(
    analysis: Analysis,
    layers: Sequence[Layer],
    wave: dict[str, int],
    collected: Collected,
    source: Source,
    sampling: Sampling,
    ranks: Ranks,
) -> Iterator[tuple[Layer, Fit]]:
    """The least-squares fits of layers to their own outputs in the original, with the rows that the method goes over.

    Layers too large to be solved are left out.
    """
    keep, frontier = analysis.keep_all(), Frontier(analysis.flat, wave, source)
    for number, batches in enumerate(_batches(layers, sampling)):
        ready = [layer for layer in layers if layer.wave == number]
        for layer, (block,) in zip(
            ready, _summed(ready, keep, collected, sampling, frontier, number, batches, ranks), strict=True
        ):
            if block.solvable:
                weight = constant_array(analysis.model, layer.linear.weight)
                yield layer, block.fit(to_matrix(layer.linear, weight)[0].astype(np.float64))
