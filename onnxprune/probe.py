"""What removals do to the outputs: end-to-end probes that price groups, and whole allocations, for the allocator.

Layer errors cannot be compared across layers. So channels are taken away, their readers refitted
from the statistics of sweep 1, and the network behind them run on a few inputs.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.calibration.least_squares import refit
from onnxprune.constants import computed_constants, constant_array
from onnxprune.criteria.curve import CURVE_RIDGE
from onnxprune.dependency import Analysis
from onnxprune.graph import Array, captured_values, values_by_name
from onnxprune.layers import Layer
from onnxprune.native import F64
from onnxprune.runtime import open_session, run
from onnxprune.scoring import Judge, Scored
from onnxprune.serialise import release_all
from onnxprune.weights import from_matrix, from_vector, to_matrix, to_vector

if TYPE_CHECKING:
    import onnxruntime as ort

STILL = 1e-9
"""An output that varies by less of its square is constant but for rounding."""

Kept = Sequence[tuple[Scored, int]]
"""Groups and the widths they are cut to."""


@dataclass(frozen=True, eq=False)
class Prober:
    """The original network on a few inputs: every activation that a probe may start from, and the judged outputs."""

    model: ir.Model
    layers: Mapping[str, Layer]
    judged: tuple[str, ...]
    known: Mapping[str, Array]
    constants: Mapping[ir.Value, Array]

    def damage(self, trials: Sequence[Kept]) -> list[float]:
        """The outputs' squared error over their variance, for each of some cuts; those of neighbours cost least."""
        constants = _changed(list(chain.from_iterable(trials)), self.layers)
        if not constants:
            return [0.0 for _ in trials]
        return self.errors(constants, [self.refitted(trial) for trial in trials])

    def refitted(self, trial: Kept) -> dict[str, Array]:
        """The constants of the layers that read these groups, by name, after a refit on the units that stay."""
        return _weights(trial, self.layers, self.constants)

    def errors(self, constants: Sequence[ir.Value], changes: Sequence[Mapping[str, Array]]) -> list[float]:
        """The same for other contents of some constants, by name; what a change leaves out stays."""
        session = _open_tail(self.model, constants, self.judged)
        known = {given.name: self.known[given.name] for given in session.get_inputs() if given.name in self.known}
        known |= {value.name or "": self.constants[value] for value in constants}
        return [self._error(run(session, {**known, **change})) for change in changes]

    def whole(self, changes: Sequence[Mapping[str, Array]], batches: Iterable[Mapping[str, Array]]) -> list[float]:
        """The same over more inputs, of the graph's outputs as well, from end to end."""
        changed = {name for change in changes for name in change}
        usual = {v.name or "": array for v, array in self.constants.items() if v.name in changed}
        names = list(dict.fromkeys((*self.judged, *(v.name or "" for v in self.model.graph.outputs))))
        session, sums = None, [dict.fromkeys(names, np.zeros(4)) for _ in changes]
        for feeds in batches:
            session = session or open_session(self.model, inputs=[*feeds, *usual], outputs=names)
            wanted = {name: np.array(y) for name, y in run(session, {**feeds, **usual}).items()}
            for total, change in zip(sums, changes, strict=True):
                found = run(session, {**feeds, **usual, **change})
                total |= {name: total[name] + _sums(y, found[name]) for name, y in wanted.items()}
        return [sum(_over_variance(*own) for own in total.values()) for total in sums]

    def _error(self, found: Mapping[str, Array]) -> float:
        return sum(_relative(self.known[name], y) for name, y in found.items())


def open_prober(
    analysis: Analysis,
    layers: Sequence[Layer],
    scored: Sequence[Scored],
    feeds: Mapping[str, Array],
    products: Sequence[Layer] = (),
) -> Prober:
    """Run the original once on these inputs (one batch) and keep what the probes of groups and products read."""
    by_name = {layer.name: layer for layer in layers}
    judged = judged_values(analysis.flat)
    changed = [_changed([(one, 0)], by_name) for one in scored]
    changed += [[layer.linear.weight, layer.bias] for layer in products if layer.bias is not None]
    reads = {name for constants in changed for name in read_before(analysis.flat, constants)}
    computed = sorted((reads | set(judged)) - set(feeds))
    known = {**feeds, **run(open_session(analysis.flat, outputs=computed), feeds)}
    constants = {value: constant_array(analysis.flat, value) for value in chain.from_iterable(changed)}
    release_all(analysis.flat)
    return Prober(_typed(analysis.flat, constants, known), by_name, tuple(judged), known, constants)


def _typed(model: ir.Model, constants: Mapping[ir.Value, Array], known: Mapping[str, Array]) -> ir.Model:
    """A copy in which all that a tail may start from has a dtype: a cut needs that of its inputs."""
    model = model.clone()
    values = values_by_name(model)
    for name in known.keys() & values.keys():
        values[name].type = ir.TensorType(ir.DataType.from_numpy(known[name].dtype))
    for constant, array in constants.items():
        values[constant.name or ""].type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
    return model


def judged_values(model: ir.Model) -> list[str]:
    """The outputs to judge by; for a softmax its input, which shows differences that saturation hides."""
    names = []
    for value in model.graph.outputs:
        node = value.producer()
        squashed = node is not None and node.op_type in ("Softmax", "LogSoftmax") and node.inputs[0] is not None
        source = node.inputs[0] if squashed and node is not None else value
        names.append((source or value).name or "")
    return list(dict.fromkeys(names))


def _read(trial: Kept, layers: Mapping[str, Layer]) -> set[str]:
    """The layers that read the groups of a trial."""
    return {judge.reader.name for one, _ in trial for judge in one.judges if judge.reader.name in layers}


def _changed(trial: Kept, layers: Mapping[str, Layer]) -> list[ir.Value]:
    """The constants that a trial changes, each once: of the layers that read its groups, and of their loops."""
    readers = [layers[name] for name in sorted(_read(trial, layers))]
    loops = [linear.weight for one, _ in trial if one.judges for linear in one.group.loops]
    own = (v for layer in readers for v in (layer.linear.weight, layer.bias) if v is not None)
    return list(dict.fromkeys((*own, *loops)))


def nodes_behind(model: ir.Model, start: Collection[str]) -> list[ir.Node]:
    """The nodes of the graph that turn on these values, which may be constants, in order."""
    changed, nodes = set(start), []
    for node in model.graph:
        if any(value.name in changed for value in _inputs(node)):
            changed.update(value.name or "" for value in node.outputs)
            nodes.append(node)
    return nodes


def read_before(model: ir.Model, constants: Sequence[ir.Value]) -> set[str]:
    """The activations that the graph from the readers of these constants on reads from before them."""
    behind = nodes_behind(model, [value.name or "" for value in constants])
    made = {value.name for node in behind for value in node.outputs}
    before = {value.name for value in (*model.graph.inputs, *(v for node in model.graph for v in node.outputs))} - made
    fixed = {value.name for value in computed_constants(model)}
    return {v.name or "" for n in behind for v in _inputs(n) if v.const_value is None and v.name in before - fixed}


def _inputs(node: ir.Node) -> list[ir.Value]:
    """What a node reads, and what the bodies in it read."""
    return [value for value in (*node.inputs, *captured_values(node)) if value is not None]


def _open_tail(model: ir.Model, constants: Sequence[ir.Value], judged: Sequence[str]) -> "ort.InferenceSession":
    """A session of the graph from the readers of these constants to the judged outputs; they are inputs of it."""
    names = [value.name or "" for value in constants]
    made = {v.name for node in nodes_behind(model, names) for v in node.outputs}
    outputs = [name for name in judged if name in made]
    return open_session(model, inputs=[*sorted(read_before(model, constants)), *names], outputs=outputs, threads=1)


def _weights(trial: Kept, layers: Mapping[str, Layer], constants: Mapping[ir.Value, Array]) -> dict[str, Array]:
    """The readers' weights and biases after a refit on the kept units of all groups, zeros at the others."""
    stays: dict[tuple[str, int], tuple[Judge, npt.NDArray[np.bool_]]] = {}
    for one, width in trial:
        kept = one.selection.keep(width)
        for judge in (j for j in one.judges if j.reader.name in layers):
            channel = judge.reader.channel
            _, mask = stays.setdefault((judge.reader.name, judge.block), (judge, np.ones(channel.size, np.bool_)))
            mask &= (channel < 0) | np.isin(channel, kept)
    feeds: dict[str, Array] = {}
    for name in {layer for layer, _ in stays}:
        own = {block: found for (layer, block), found in stays.items() if layer == name}
        feeds |= _layer_feeds(layers[name], constants, own)
    return feeds | _loop_feeds(trial, constants)


def _loop_feeds(trial: Kept, constants: Mapping[ir.Value, Array]) -> dict[str, Array]:
    """Zeros where the kept units would read those that go."""
    feeds: dict[str, Array] = {}
    for one, width in (pair for pair in trial if pair[0].judges):
        gone = one.group.units[~np.isin(one.group.member, one.selection.keep(width))]
        for linear in one.group.loops:
            original = constants[linear.weight]
            stays = ~np.isin(linear.features, gone)[:, None]
            shaped = from_matrix(linear, to_matrix(linear, original) * stays, original.shape)
            feeds[linear.weight.name or ""] = np.asarray(shaped, original.dtype)
    return feeds


def _layer_feeds(
    layer: Layer, constants: Mapping[ir.Value, Array], blocks: Mapping[int, tuple[Judge, npt.NDArray[np.bool_]]]
) -> dict[str, Array]:
    original = constants[layer.linear.weight]
    weight = to_matrix(layer.linear, original).astype(np.float64)
    shift = np.zeros(weight.shape[:2])
    for block, (judge, mask) in blocks.items():
        weight[block], shift[block] = _pruned(judge, mask)
    shaped = from_matrix(layer.linear, weight, original.shape)
    feeds = {layer.linear.weight.name or "": np.ascontiguousarray(shaped, original.dtype)}
    if layer.bias is not None:
        bias = constants[layer.bias]
        vector = to_vector(layer.linear, bias) + shift.reshape(-1)
        feeds[layer.bias.name or ""] = from_vector(layer.linear, vector, bias).astype(bias.dtype)
    return feeds


def _pruned(judge: Judge, mask: npt.NDArray[np.bool_]) -> tuple[F64, F64]:
    reader, moments = judge.reader, judge.reader.moments
    assert moments is not None
    weight = np.zeros(reader.weight.shape)
    weight[:, mask] = refit(moments.gram, moments.cross, reader.weight, np.flatnonzero(mask), CURVE_RIDGE)
    return weight, (reader.weight - weight) @ moments.mean_x


def _relative(expected: Array, found: Array) -> float:
    """The squared error over the output's variance; over its mean square where it hardly varies, as in dead outputs."""
    return _over_variance(*_sums(expected, found))


def _sums(expected: Array, found: Array) -> F64:
    """(4,) the number of elements, and the sums of them, of their squares, and of those of the difference."""
    wanted = expected.astype(np.float64)
    difference = found.astype(np.float64) - wanted
    if expected.ndim == 2 and expected.shape[1] > 1:
        difference -= difference.mean(axis=1, keepdims=True)  # a shift of all scores changes no decision
    return np.array([wanted.size, wanted.sum(), np.sum(wanted**2), np.sum(difference**2)])


def _over_variance(count: float, total: float, squares: float, missing: float) -> float:
    variance, square = squares / count - (total / count) ** 2, squares / count
    return float(missing / count / ((variance if variance > STILL * square else square) or 1.0))
