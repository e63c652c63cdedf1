"""Sweep 2's engine: run a network front to back in steps, while its weights are being solved.

Each step runs only the nodes between what is already known and what is asked for. Activations that later steps need
lie in temporary files, so memory does not grow with the number of samples.
"""

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from onnxprune.calibration.source import Source
from onnxprune.calibration.tape import Tape
from onnxprune.graph import Array
from onnxprune.runtime import open_session, run, subgraph


class Frontier:
    """The activations of `model` that are known so far; its weights may change between steps, never behind them.

    `wave` numbers every value by the step after whose solving it is final, and nodes run in the step of their outputs.
    """

    def __init__(self, model: ir.Model, wave: Mapping[str, int], source: Source) -> None:
        self._model, self._wave, self._source = model, wave, source
        self._tapes: dict[str, Tape] = {}
        self.peak_bytes = 0

    def step(self, number: int, wanted: Sequence[str]) -> Iterator[dict[str, Array]]:
        """Run step `number` over all batches, and yield the wanted values of each."""
        inputs = [v.name or "" for v in self._model.graph.inputs if not v.is_initializer()] if number == 0 else []
        known = {*inputs, *self._tapes}
        carry = self._read_later(number)
        outputs = sorted(({*wanted} | carry) - known)
        needed = self._needed(number, outputs)
        cut = subgraph(self._model, needed, outputs) if outputs else None
        session = open_session(cut) if cut is not None else None
        for name in carry - set(self._tapes):
            self._tapes[name] = Tape()
        for i, feeds in enumerate(self._batches(number)):
            here = {**feeds, **{name: self._tapes[name][i] for name in {*needed, *wanted} if name in known - set(feeds)}}
            if session is not None:
                here |= run(session, {name: here[name] for name in needed})
            for name in carry - known | carry & set(inputs):
                self._tapes[name].append(here[name])
            self._note_types(here)
            yield {name: here[name] for name in wanted}
        self._forget(number)

    def _batches(self, number: int) -> Iterator[Mapping[str, Array]]:
        if number == 0:
            yield from self._source.batches()
        else:
            yield from ({} for _ in range(max(len(tape) for tape in self._tapes.values())))

    def _exec(self, node: ir.Node) -> int:
        return max(self._wave[value.name] for value in node.outputs if value.name)

    def _read_later(self, number: int) -> set[str]:
        """Values final by this step that nodes of later steps read."""
        return {
            value.name or ""
            for node in self._model.graph
            if self._exec(node) > number
            for value in _reads(node)
            if not value.is_initializer() and self._wave.get(value.name or "", 0) <= number
        }

    def _needed(self, number: int, outputs: Sequence[str]) -> list[str]:
        """What the nodes of this step read from before it."""
        graph_inputs = {v.name for v in self._model.graph.inputs}
        made = {v.name for node in self._model.graph if self._exec(node) == number for v in node.outputs}
        reads = {
            v.name or ""
            for node in self._model.graph
            if self._exec(node) == number
            for v in _reads(node)
            if not v.is_initializer() and v.name not in made
        }
        return sorted(name for name in reads if name in self._tapes or name in graph_inputs) if outputs else []

    def _note_types(self, values: Mapping[str, Array]) -> None:
        """A cut needs the dtype of its inputs, which only the run tells."""
        for node in self._model.graph:
            for value in node.outputs:
                if value.type is None and value.name in values:
                    value.type = ir.TensorType(ir.DataType.from_numpy(values[value.name].dtype))

    def _forget(self, number: int) -> None:
        self.peak_bytes = max(self.peak_bytes, sum(tape.bytes for tape in self._tapes.values()))
        later = self._read_later(number)
        self._tapes = {name: tape for name, tape in self._tapes.items() if name in later}


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            for inner in ir.traversal.RecursiveGraphIterator(attribute.as_graph()):
                own = attribute.as_graph()
                yield from (v for v in inner.inputs if v is not None and v.graph is not own and v.producer() not in own)
