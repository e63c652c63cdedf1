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
        """Run step `number` over all batches, yield the wanted values of each, and keep what later steps read."""
        known, later = self._known(number), self._read_later(number)
        tapes = {name: Tape() for name in later - set(self._tapes)}
        for here in self._run(number, sorted({*wanted} | (later - known))):
            for name, tape in tapes.items():
                tape.append(here[name])
            yield {name: here[name] for name in wanted}
        self._tapes |= tapes
        self.peak_bytes = max(self.peak_bytes, sum(tape.bytes for tape in self._tapes.values()))
        self._tapes = {name: tape for name, tape in self._tapes.items() if name in later}

    def look(self, number: int, wanted: Sequence[str]) -> Iterator[dict[str, Array]]:
        """Run step `number` as it stands, as far as the caller reads, and keep nothing."""
        return self._run(number, wanted)

    def _known(self, number: int) -> set[str]:
        inputs = [v.name or "" for v in self._model.graph.inputs if not v.is_initializer()] if number == 0 else []
        return {*inputs, *self._tapes}

    def _run(self, number: int, wanted: Sequence[str]) -> Iterator[dict[str, Array]]:
        """Yield the wanted values, and with step 0 the graph's inputs."""
        known = self._known(number)
        outputs = sorted(set(wanted) - known)
        needed = self._needed(number) if outputs else []
        session = open_session(subgraph(self._model, needed, outputs)) if outputs else None
        read = [name for name in {*needed, *wanted} if name in self._tapes]
        for i, feeds in enumerate(self._batches(number)):
            here = {**feeds, **{name: self._tapes[name][i] for name in read}}
            if session is not None:
                here |= run(session, {name: here[name] for name in needed})
            self._note_types(here)
            yield here

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

    def _needed(self, number: int) -> list[str]:
        """What the nodes of this step read from before it."""
        nodes = [node for node in self._model.graph if self._exec(node) == number]
        made = {value.name for node in nodes for value in node.outputs}
        reads = {v.name or "" for node in nodes for v in _reads(node) if not v.is_initializer() and v.name not in made}
        return sorted(reads & self._known(number))

    def _note_types(self, values: Mapping[str, Array]) -> None:
        """A cut needs the dtype of its inputs, which only the run tells."""
        for node in self._model.graph:
            for value in node.outputs:
                if value.type is None and (value.name or "") in values:
                    value.type = ir.TensorType(ir.DataType.from_numpy(values[value.name or ""].dtype))


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            for inner in ir.traversal.RecursiveGraphIterator(attribute.as_graph()):
                own = attribute.as_graph()
                yield from (v for v in inner.inputs if v is not None and v.graph is not own and v.producer() not in own)
