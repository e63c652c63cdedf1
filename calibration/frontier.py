"""Sweep 2's engine: run a network front to back in steps, while its weights are being solved.

Each step runs only the nodes between what is already known and what is asked for. Activations that later steps need
lie in temporary files, so memory does not grow with the number of samples. A batch joins when a step first needs it,
and then runs from the inputs at one go.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import onnx_ir as ir

from onnxprune.calibration.source import Source
from onnxprune.calibration.tape import Tape
from onnxprune.constants import computed_constants
from onnxprune.graph import Array, captured_values
from onnxprune.parallel import ahead, share
from onnxprune.runtime import open_session, run

if TYPE_CHECKING:
    import onnxruntime as ort

T = TypeVar("T")


class Frontier:
    """The activations of `model` that are known so far; its weights may change between steps, never behind them.

    `wave` numbers every value by the step after whose solving it is final, and nodes run in the step of their outputs.
    What is computed from weights alone is computed anew wherever it is read.
    """

    def __init__(self, model: ir.Model, wave: Mapping[str, int], source: Source) -> None:
        self._model, self._wave, self._source = model, wave, source
        self._inputs = [v.name or "" for v in model.graph.inputs if not v.is_initializer()]
        self._fixed = {value.name or "" for value in computed_constants(model)}
        self._tapes: dict[str, Tape] = {}
        self._spare: list[Tape] = []
        self._have = 0
        self.peak_bytes = 0

    def join(self, number: int, batches: int) -> None:
        """Bring the first `batches` batches to where step `number` starts."""
        if batches <= self._have or number == 0:
            return
        outputs = sorted(set(self._tapes) - set(self._inputs))
        session = self._open(self._inputs, outputs)

        def record(numbered: tuple[int, dict[str, Array]]) -> None:
            i, feeds = numbered
            here = {**feeds, **(run(session, feeds) if session is not None else {})}
            if i == self._have:
                self._note_types(here)
            for name, tape in self._tapes.items():
                tape.put(i, here[name])

        new = enumerate(islice(self._source.batches(), self._have, batches), self._have)
        for _ in ahead(record, new):
            pass
        self._have = batches

    def step(
        self, number: int, batches: int, wanted: Sequence[str], use: Callable[[int, dict[str, Array]], None]
    ) -> None:
        """Run step `number` over the first batches and keep what later steps read.

        `use` is given each batch's number and wanted values on the lane that ran it (`parallel.ahead`).
        """
        self.join(number, batches)
        known, later = self._known(number), self._read_later(number)
        tapes = {name: self._blank() for name in later - set(self._tapes)}

        def kept(i: int, here: dict[str, Array]) -> None:
            for name, tape in tapes.items():
                tape.put(i, here[name])
            use(i, {name: here[name] for name in wanted})

        for _ in self._run(number, batches, sorted({*wanted} | (later - known)), kept):
            pass
        self._have = batches
        self._tapes |= tapes
        self.peak_bytes = max(self.peak_bytes, sum(tape.bytes for tape in (*self._tapes.values(), *self._spare)))
        self._spare += [tape for name, tape in self._tapes.items() if name not in later]
        self._tapes = {name: tape.cut(batches) for name, tape in self._tapes.items() if name in later}

    def look(self, number: int, batches: int, wanted: Sequence[str]) -> Iterator[dict[str, Array]]:
        """Run step `number` as it stands, as far as the caller reads, and keep nothing."""
        self.join(number, batches)
        return self._run(number, batches, wanted, lambda _, here: here)

    def _blank(self) -> Tape:
        """A tape to write on: an old one again, whose pages the system has at hand."""
        return self._spare.pop().cut(0) if self._spare else Tape()

    def _known(self, number: int) -> set[str]:
        return {*(self._inputs if number == 0 else ()), *self._tapes}

    def _run(
        self, number: int, batches: int, wanted: Sequence[str], use: Callable[[int, dict[str, Array]], T]
    ) -> Iterator[T]:
        """Yield what `use` makes of each batch's number and values: those wanted, and those they are computed from."""
        if not batches:
            return
        outputs = sorted(set(wanted) - self._known(number))
        needed = self._needed(number) if outputs else []
        session = self._open(needed, outputs)
        read = [name for name in {*needed, *wanted} if name in self._tapes]

        def activations(given: tuple[int, dict[str, Array]]) -> T:
            i, feeds = given
            here = {**feeds, **{name: self._tapes[name][i] for name in read}}
            here |= run(session, {name: here[name] for name in needed}) if session is not None else {}
            if i == 0:
                self._note_types(here)
            return use(i, here)

        feeds = islice(self._source.batches(), batches) if number == 0 else ({} for _ in range(batches))
        yield from ahead(activations, enumerate(feeds))

    def _open(self, inputs: Sequence[str], outputs: Sequence[str]) -> "ort.InferenceSession | None":
        return open_session(self._model, inputs=inputs, outputs=outputs, threads=share()) if outputs else None

    def _exec(self, node: ir.Node) -> int:
        return max(self._wave[value.name] for value in node.outputs if value.name)

    def _read_later(self, number: int) -> set[str]:
        """Values final by this step that nodes of later steps read."""
        return {
            value.name or ""
            for node in self._model.graph
            if self._exec(node) > number
            for value in self._reads(node)
            if self._wave.get(value.name or "", 0) <= number
        }

    def _needed(self, number: int) -> list[str]:
        """What the nodes of this step read from before it."""
        nodes = [node for node in self._model.graph if self._exec(node) == number]
        made = {value.name for node in nodes for value in node.outputs}
        reads = {v.name or "" for node in nodes for v in self._reads(node) if v.name not in made}
        return sorted(reads & self._known(number))

    def _reads(self, node: ir.Node) -> Iterator[ir.Value]:
        """The activations that a node reads, and those of the main graph that its bodies read."""
        values = (*(value for value in node.inputs if value is not None), *captured_values(node))
        named = ((value.name or "", value) for value in values)
        return (v for name, v in named if name not in self._fixed and (name in self._wave or name in self._inputs))

    def _note_types(self, values: Mapping[str, Array]) -> None:
        """A cut needs the dtype of its inputs, which only the run tells."""
        for node in self._model.graph:
            for value in node.outputs:
                if value.type is None and (value.name or "") in values:
                    value.type = ir.TensorType(ir.DataType.from_numpy(values[value.name or ""].dtype))
