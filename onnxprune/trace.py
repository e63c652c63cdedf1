"""What one run of the model shows: every shape, and the integers that shapes are computed from.

Declared shapes can be false, and a shape computed at run time is known only there.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.bodies import changing, first_passes
from onnxprune.errors import BadInput
from onnxprune.labels import Shape
from onnxprune.pieces import Seen, compute, results
from onnxprune.pieces import shapes as shapes_of

Feeds = Mapping[str, npt.NDArray[np.generic]]
Integers = npt.NDArray[np.int64]
LONGEST_SHAPE = 64
"""No tensor has more axes than this, so longer vectors are not shapes."""


Leaf = tuple[ir.Value, int]
"""A tensor and one of its axes, whose size a Shape operator reads."""


@dataclass(frozen=True, eq=False)
class Place:
    """An integer of the graph: element `element` of input `place` of `node` (None: the very input asked about)."""

    node: ir.Node | None
    place: int
    element: int


@dataclass(frozen=True, eq=False)
class Origin:
    """Where one integer of a shape comes from.

    Either it is the constant `current` that stands at `place`; or it is computed from the sizes `leaves` (none: a
    constant), in proportion to them where `proportional`, and as it stands where `direct`. A computed integer can be
    replaced at `place`, where that is given: there it stands alone.
    """

    current: int
    place: Place | None
    leaves: tuple[Leaf, ...] = ()
    proportional: bool = True
    direct: bool = True


SIZES = ("Shape", "Size")
"""What reads how large a tensor is, and nothing of what it holds."""
PASSING = ("Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape")
ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Abs", "Neg")


@dataclass(frozen=True, eq=False)
class Trace:
    """Shapes and small integer vectors of one run, by value name; `batch` is the size of the inputs' first axis.

    `taken` names the branch of each If node that takes the same one on all calibration inputs.
    """

    shapes: Mapping[str, Shape]
    vectors: Mapping[str, npt.NDArray[np.integer]]
    batch: int
    taken: Mapping[str, str] = field(default_factory=dict)

    def shape(self, value: ir.Value) -> Shape:
        """The shape of a value: a constant's own, or the one that the run had."""
        if value.const_value is not None:
            return tuple(value.const_value.shape.numpy())
        return self.shapes[value.name or ""]

    def knows(self, value: ir.Value) -> bool:
        """Whether the shape of a value is known (not for sequences, optionals and outputs left out)."""
        return value.const_value is not None or value.name in self.shapes

    def covers(self, model: ir.Model) -> bool:
        """Whether every result in the model's graph is among the values seen."""
        return all(not value.name or value.name in self.shapes for node in model.graph for value in node.outputs)

    def integers(self, value: ir.Value) -> Integers | None:
        """The integers in a short constant or traced vector, flat; None for anything else."""
        if value.const_value is not None:
            return _small_integers(value.const_value)
        vector = self.vectors.get(value.name or "")
        return None if vector is None else vector.astype(np.int64)

    def origin(self, value: ir.Value, element: int) -> Origin | None:
        """Follow one element of an integer vector back to a constant or to run-time shapes; None where it is lost."""
        return self._origin(value, Place(None, 0, element), None)

    def _origin(self, value: ir.Value, at: Place, alone: Place | None) -> Origin | None:
        """`alone`: the place nearest to the reader where the integer stood alone."""
        numbers = self.integers(value)
        if numbers is None:
            return None
        if value.const_value is not None:
            return Origin(int(numbers[at.element]), at)
        alone = alone or (at if numbers.size == 1 else None)
        node = value.producer()
        if node is None:
            return None
        if node.op_type == "Shape":
            return self._origin_in_shape(node, at.element, int(numbers[at.element]), alone)
        if node.op_type in PASSING:
            return self._origin_at(node, 0, at.element, alone)
        if node.op_type == "Concat":
            return self._origin_in_concat(node, at.element, alone)
        if node.op_type in ("Gather", "Slice"):
            return self._origin_picked(node, at.element, alone)
        if node.op_type == "Where":
            return self._origin_chosen(node, at.element, alone)
        if node.op_type in ARITHMETIC:
            return self._origin_computed(node, at.element, int(numbers[at.element]), alone)
        return None

    def _origin_at(self, node: ir.Node, place: int, element: int, alone: Place | None) -> Origin | None:
        value = node.inputs[place]
        return None if value is None else self._origin(value, Place(node, place, element), alone)

    def _origin_in_shape(self, node: ir.Node, element: int, current: int, alone: Place | None) -> Origin | None:
        source, start = node.inputs[0], node.attributes.get("start")
        if source is None or not self.knows(source):
            return None
        axis = element + range(len(self.shape(source)))[slice(0 if start is None else start.as_int(), None)].start
        return Origin(current, alone, ((source, axis),))

    def _origin_computed(self, node: ir.Node, element: int, current: int, alone: Place | None) -> Origin | None:
        """All sizes that the operands come from; a constant operand has none."""
        sides: list[Origin] = []
        for place, value in enumerate(node.inputs):
            numbers = self.integers(value) if value is not None else None
            side = None if numbers is None else self._origin_at(node, place, element if numbers.size > 1 else 0, alone)
            if side is None:
                return None
            sides.append(side)
        leaves = tuple(dict.fromkeys(leaf for side in sides for leaf in side.leaves))
        free = node.op_type == "Mul" or (node.op_type == "Div" and not sides[1].leaves)
        return Origin(current, alone, leaves, free and all(side.proportional for side in sides), direct=False)

    def _origin_chosen(self, node: ir.Node, element: int, alone: Place | None) -> Origin | None:
        """The operand that the run chose."""
        chosen = self.integers(node.inputs[0]) if node.inputs[0] is not None else None
        if chosen is None:
            return None
        place = 1 if chosen[element if chosen.size > 1 else 0] else 2
        value = node.inputs[place]
        numbers = self.integers(value) if value is not None else None
        return None if numbers is None else self._origin_at(node, place, element if numbers.size > 1 else 0, alone)

    def _origin_in_concat(self, node: ir.Node, element: int, alone: Place | None) -> Origin | None:
        for place, value in enumerate(node.inputs):
            numbers = self.integers(value) if value is not None else None
            if numbers is None:
                return None
            if element < numbers.size:
                return self._origin_at(node, place, element, alone)
            element -= numbers.size
        return None

    def _origin_picked(self, node: ir.Node, element: int, alone: Place | None) -> Origin | None:
        source = self.integers(node.inputs[0]) if node.inputs[0] is not None else None
        if source is None:
            return None
        picked = self._gathered(node, source.size) if node.op_type == "Gather" else self._sliced(node, source.size)
        return None if picked is None else self._origin_at(node, 0, int(picked[element]), alone)

    def _gathered(self, node: ir.Node, size: int) -> Integers | None:
        indices = self.integers(node.inputs[1]) if node.inputs[1] is not None else None
        if indices is None or node.attributes.get_int("axis", 0) not in (0, -1):
            return None
        return np.arange(size)[indices]

    def _sliced(self, node: ir.Node, size: int) -> Integers | None:
        bounds = [self.integers(v) for v in (*node.inputs[1:3], *node.inputs[4:5]) if v is not None]
        if len(node.inputs) < 3:  # before opset 10 the bounds are attributes
            bounds = [np.asarray(node.attributes[name].value) for name in ("starts", "ends")]
        if any(bound is None for bound in bounds):
            return None
        return np.arange(size)[slice(*(int(bound[0]) for bound in bounds if bound is not None))]


def trace(model: ir.Model, feeds: Feeds, seen: Seen | None = None) -> Trace:
    """Run the model once and note all shapes and shape-like integers; no activation leaves the runtime.

    A body of control flow is run by itself, with what it reads from outside: both branches, and the first pass of a
    loop. Of a body that does not run so, nothing is known. Where the model has been `seen` to run on these inputs, the
    shapes of then are taken.

    Raises BadInput where the model does not run on these inputs.
    """
    shapes, vectors = _found(model, feeds, seen)
    for _, body, given in first_passes(model, feeds):
        with suppress(BadInput):
            inner_shapes, inner_vectors = _found(body, given)
            shapes, vectors = inner_shapes | shapes, inner_vectors | vectors
    loose = changing(model)
    batch = next((array.shape[0] for array in feeds.values() if array.ndim), 1)
    return Trace(shapes, {name: v for name, v in vectors.items() if name not in loose}, batch)


def _found(
    model: ir.Model, feeds: Feeds, seen: Seen | None = None
) -> tuple[dict[str, Shape], dict[str, npt.NDArray[np.integer]]]:
    shapes = dict(_computed_shapes(model, feeds, seen))
    shapes |= {name: tuple(array.shape) for name, array in feeds.items()}
    short = [name for name, shape in shapes.items() if len(shape) <= 1 and np.prod(shape) <= LONGEST_SHAPE]
    sizes = _read_sizes(model, shapes)
    short = [name for name in short if name not in feeds and name not in sizes]
    with _typed(model, sizes):
        values = compute(model, {**feeds, **sizes}, short, shapes.keys()) if short else {}
    kinds = (np.integer, np.bool_)
    return shapes, sizes | {n: v.reshape(-1) for n, v in values.items() if issubclass(v.dtype.type, kinds)}


def _read_sizes(model: ir.Model, shapes: Mapping[str, Shape]) -> dict[str, npt.NDArray[np.integer]]:
    """What the Shape nodes give, which is known by now: what is computed from it needs no activation any more."""
    found: dict[str, npt.NDArray[np.integer]] = {}
    for node in model.graph:
        source = node.inputs[0] if node.op_type == "Shape" else None
        name = source.name or "" if source is not None else ""
        if name in shapes and not node.outputs[0].is_graph_output():
            start, end = (node.attributes.get(key) for key in ("start", "end"))
            where = slice(0 if start is None else start.as_int(), None if end is None else end.as_int())
            found[node.outputs[0].name or ""] = np.array(shapes[name][where], np.int64)
    return found


@contextmanager
def _typed(model: ir.Model, sizes: Collection[str]) -> Iterator[None]:
    """Types on the outputs of Shape nodes, as inputs of a cut need them; taken off again, for they would be written."""
    bare = [v for node in model.graph for v in node.outputs if v.name in sizes and v.type is None]
    for value in bare:
        value.type = ir.TensorType(ir.DataType.INT64)
    try:
        yield
    finally:
        for value in bare:
            value.type = None


def _computed_shapes(model: ir.Model, feeds: Feeds, seen: Seen | None) -> Mapping[str, Shape]:
    names = results(model)
    if seen is not None and _alike(seen[0], feeds) and seen[1].keys() >= set(names):
        return {name: seen[1][name] for name in names}
    try:
        return shapes_of(model, feeds, names)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"the model does not run on inputs {_described(feeds)}: {error}") from error


def _alike(ones: Feeds, others: Feeds) -> bool:
    return ones.keys() == others.keys() and all(np.array_equal(ones[name], others[name]) for name in ones)


def _described(feeds: Feeds) -> str:
    return ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in feeds.items())


def _small_integers(tensor: ir.TensorProtocol) -> Integers | None:
    if not (tensor.dtype.is_integer() or tensor.dtype == ir.DataType.BOOL) or tensor.size > LONGEST_SHAPE:
        return None
    return tensor.numpy().astype(np.int64).reshape(-1)
