"""Try inputs on the model, and see which sizes its constants suggest."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxprune.errors import BadInput
from onnxprune.labels import Shape
from onnxprune.pieces import MANY, Seen, results, shape_session, shapes, shapes_by, whole
from onnxprune.serialise import tensor_bytes

Feeds = Mapping[str, np.ndarray[Any, np.dtype[Any]]]

_TRIES, _TRIES_OF_LARGE, _LARGE = 48, 24, 100_000_000
# How far from the inputs, in nodes, a constant may stand whose size is one that an input may have to fit; how many.
_NEAR, _NUMBERS = 12, 12
# No shape has more axes.
_SHORT = 8


class Trial:
    """A model to try inputs on: one session, opened when it is first needed, runs every shape; or pieces of it do.

    `seen` holds the inputs that it ran on last, and the shapes of its results then; of very many, those of the outputs.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self.seen: Seen | None = None

    @cached_property
    def _session(self) -> Any:
        graph, names = self._model.graph, results(self._model)
        if len(names) > MANY:  # a session with so many outputs takes long to open
            ends = {value.name for value in graph.outputs}
            names = [name for name in names if name in ends] or names[-1:]
        inputs = [value.name or "" for value in graph.inputs if not value.is_initializer()]
        return shape_session(self._model, inputs, names, optimise=False)

    def refusal(self, feeds: Feeds) -> str | None:
        """Why the model does not run on these inputs; None where it does. Raises BadInput where it cannot be loaded."""
        session = self._session if whole(self._model) else None
        try:
            found = shapes_by(session, feeds) if session is not None else self._in_pieces(feeds)
        except BadInput as error:
            return str(error)
        self.seen = feeds, found
        return None

    def _in_pieces(self, feeds: Feeds) -> Mapping[str, Shape]:
        return shapes(self._model, feeds, results(self._model), optimise=False)

    @property
    def tries(self) -> int:
        """How many other sizes may be tried: fewer where a try is expensive."""
        return _TRIES_OF_LARGE if tensor_bytes(self._model) > _LARGE else _TRIES

    def numbers(self) -> list[int]:
        """Sizes of constants near the inputs, and short integer constants: sizes that an input may have to fit."""
        found = (number for node in islice(_downstream(self._model), _NEAR) for number in _numbers(node))
        return list(islice(dict.fromkeys(found), _NUMBERS))


def _downstream(model: ir.Model) -> Iterator[ir.Node]:
    """The nodes that read the inputs, nearest first."""
    pending = [value for value in model.graph.inputs if not value.is_initializer()]
    seen: set[int] = set()
    for value in pending:
        for node, _ in value.uses():
            if id(node) not in seen:
                seen.add(id(node))
                yield node
                pending.extend(node.outputs)


def _numbers(node: ir.Node) -> Iterator[int]:
    for value in node.inputs:
        constant = None if value is None else ir.convenience.get_const_tensor(value)
        if constant is None:
            continue
        yield from (int(size) for size in constant.shape.numpy() if size > 1)
        if constant.dtype.is_integer() and constant.size <= _SHORT:
            yield from (int(number) for number in constant.numpy().reshape(-1) if number > 1)
