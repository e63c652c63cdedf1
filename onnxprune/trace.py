"""What one run of the model shows: every shape, and the integers that shapes are computed from.

Declared shapes can be false, and a shape computed at run time is known only there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.errors import BadInput
from onnxprune.labels import Shape
from onnxprune.runtime import open_session, run

Feeds = Mapping[str, npt.NDArray[np.generic]]
Integers = npt.NDArray[np.int64]
LONGEST_SHAPE = 64
"""No tensor has more axes than this, so longer vectors are not shapes."""


@dataclass(frozen=True)
class Origin:
    """Where one integer of a shape comes from.

    `constant` integers stand in input `place` of `node` (None: the very input that was asked about), at `element`;
    the others follow a run-time shape by themselves.
    """

    constant: bool
    node: ir.Node | None = None
    place: int = 0
    element: int = 0
    current: int = 0


@dataclass(frozen=True, eq=False)
class Trace:
    """Shapes and small integer vectors of one run, by value name; `batch` is the size of the inputs' first axis."""

    shapes: Mapping[str, Shape]
    vectors: Mapping[str, Integers]
    batch: int

    def shape(self, value: ir.Value) -> Shape:
        """The shape of a value: a constant's own, or the one that the run had."""
        if value.const_value is not None:
            return tuple(int(d) for d in value.const_value.shape)
        return self.shapes[value.name or ""]

    def knows(self, value: ir.Value) -> bool:
        """Whether the shape of a value is known (not for sequences, optionals and outputs left out)."""
        return value.const_value is not None or value.name in self.shapes

    def integers(self, value: ir.Value) -> Integers | None:
        """The integers in a short constant or traced vector, flat; None for anything else."""
        if value.const_value is not None:
            return _small_integers(value.const_value)
        return self.vectors.get(value.name or "")

    def origin(self, value: ir.Value, element: int) -> Origin | None:
        """Follow one element of an integer vector back to a constant or to a run-time shape; None where it is lost."""
        return self._origin(value, element, None, 0)

    def _origin(self, value: ir.Value, element: int, user: ir.Node | None, place: int) -> Origin | None:
        numbers = self.integers(value)
        if value.const_value is not None:
            return None if numbers is None else Origin(True, user, place, element, int(numbers[element]))
        node = value.producer()
        if node is None or numbers is None:
            return None
        if node.op_type == "Shape":
            return Origin(False)
        if node.op_type in ("Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape"):
            return self._origin_at(node, 0, element)
        if node.op_type == "Concat":
            return self._origin_in_concat(node, element)
        if node.op_type in ("Gather", "Slice"):
            return self._origin_picked(node, element)
        return Origin(False) if self._from_shape(node) else None

    def _origin_at(self, node: ir.Node, place: int, element: int) -> Origin | None:
        value = node.inputs[place]
        return None if value is None else self._origin(value, element, node, place)

    def _origin_in_concat(self, node: ir.Node, element: int) -> Origin | None:
        for place, value in enumerate(node.inputs):
            numbers = self.integers(value) if value is not None else None
            if numbers is None:
                return None
            if element < numbers.size:
                return self._origin_at(node, place, element)
            element -= numbers.size
        return None

    def _origin_picked(self, node: ir.Node, element: int) -> Origin | None:
        source = self.integers(node.inputs[0]) if node.inputs[0] is not None else None
        if source is None:
            return None
        picked = self._gathered(node, source.size) if node.op_type == "Gather" else self._sliced(node, source.size)
        return None if picked is None else self._origin_at(node, 0, int(picked[element]))

    def _gathered(self, node: ir.Node, size: int) -> Integers | None:
        indices = self.integers(node.inputs[1]) if node.inputs[1] is not None else None
        return None if indices is None else np.arange(size)[indices]

    def _sliced(self, node: ir.Node, size: int) -> Integers | None:
        bounds = [self.integers(v) for v in (*node.inputs[1:3], *node.inputs[4:5]) if v is not None]
        if len(node.inputs) < 3:  # before opset 10 the bounds are attributes
            bounds = [np.asarray(node.attributes[name].value) for name in ("starts", "ends")]
        if any(bound is None for bound in bounds):
            return None
        return np.arange(size)[slice(*(int(bound[0]) for bound in bounds if bound is not None))]

    def _from_shape(self, node: ir.Node) -> bool:
        """Whether an integer computation starts at a Shape: then it follows the pruned shapes by itself."""
        producers = [value.producer() for value in node.inputs if value is not None and self.integers(value) is not None]
        return any(p is not None and (p.op_type == "Shape" or self._from_shape(p)) for p in producers)


def trace(model: ir.Model, feeds: Feeds) -> Trace:
    """Run the model once and note all shapes and shape-like integers; no activation leaves the runtime.

    Raises BadInput where the model does not run on these inputs.
    """
    shapes = {name: tuple(int(d) for d in dims) for name, dims in _computed_shapes(model, feeds).items()}
    shapes |= {name: tuple(array.shape) for name, array in feeds.items()}
    short = [name for name, shape in shapes.items() if len(shape) <= 1 and np.prod(shape) <= LONGEST_SHAPE]
    short = [name for name in short if name not in feeds]
    values = run(open_session(model, outputs=short), feeds) if short else {}
    vectors = {n: v.astype(np.int64).reshape(-1) for n, v in values.items() if np.issubdtype(v.dtype, np.integer)}
    batch = next((array.shape[0] for array in feeds.values() if array.ndim), 1)
    return Trace(shapes, vectors, batch)


def _computed_shapes(model: ir.Model, feeds: Feeds) -> Mapping[str, Integers]:
    watched = model.clone()
    graph = watched.graph
    asked: dict[str, str] = {}
    for node in list(graph):
        for value in node.outputs:
            if value.name and not isinstance(value.type, ir.SequenceType | ir.OptionalType):
                shape_of = ir.node("Shape", [value])
                shape_of.outputs[0].name = f"{value.name}::shape"
                shape_of.name = f"{value.name}::shape"
                graph.append(shape_of)
                asked[f"{value.name}::shape"] = value.name
    try:
        shapes = run(open_session(watched, outputs=list(asked)), feeds)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"the model does not run on inputs {_described(feeds)}: {error}") from error
    return {asked[name]: dims for name, dims in shapes.items()}


def _described(feeds: Feeds) -> str:
    return ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in feeds.items())


def _small_integers(tensor: ir.TensorProtocol) -> Integers | None:
    if not tensor.dtype.is_integer() or tensor.size > LONGEST_SHAPE:
        return None
    return tensor.numpy().astype(np.int64).reshape(-1)
