"""Try inputs on the model, and see which sizes its constants suggest."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxprune.errors import BadInput
from onnxprune.pieces import compute, whole
from onnxprune.runtime import open_session, run
from onnxprune.serialise import tensor_bytes

Feeds = Mapping[str, np.ndarray[Any, np.dtype[Any]]]

_TRIES, _TRIES_OF_LARGE, _LARGE = 48, 24, 100_000_000
# How far from the inputs, in nodes, a constant may stand whose size is one that an input may have to fit; how many.
_NEAR, _NUMBERS = 12, 12
# No shape has more axes.
_SHORT = 8


class Trial:
    """A model to try inputs on: one session, opened when it is first needed, runs every shape; or pieces of it do."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model

    @cached_property
    def _session(self) -> Any:
        return open_session(self._model, optimise=False)

    def refusal(self, feeds: Feeds) -> str | None:
        """Why the model does not run on these inputs; None where it does. Raises BadInput where it cannot be loaded."""
        names = [value.name or "" for value in self._model.graph.outputs]
        session = self._session if whole(self._model) else None
        try:
            run(session, feeds) if session is not None else compute(self._model, feeds, names)
        except BadInput as error:
            return str(error)
        return None

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
