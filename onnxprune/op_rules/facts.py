"""What an operator rule says: small facts about labels, collected by `dependency.py`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnxprune.graph import Array
from onnxprune.labels import Atoms, Label, Labels


@dataclass(frozen=True, eq=False)
class Out:
    """Output `index` of the node carries these labels."""

    index: int
    labels: Labels


@dataclass(frozen=True, eq=False)
class Param:
    """The constant at input `index` is sliced along with `label`; `contracted` where the op sums over that axis.

    `nothing` (that broadcasts to the constant) is what contributes nothing to such a sum, if not zero: a zero point.
    """

    index: int
    label: Label
    contracted: bool = False
    nothing: Array | None = None


@dataclass(frozen=True, eq=False)
class Summed:
    """The op sums over these positions of its computed input `index`, against another computed input.

    For quanta, input `zero` holds what stands for zero.
    """

    index: int
    label: Label
    zero: int | None = None


@dataclass(frozen=True, eq=False)
class Part:
    """The op takes statistics over these positions of its first input: over those that stay, once some go."""

    label: Label


@dataclass(frozen=True, eq=False)
class Tie:
    """Two equally shaped atom arrays go together, position by position."""

    left: Atoms
    right: Atoms


@dataclass(frozen=True, eq=False)
class Lines:
    """Position i along one of a factored label's axes (`axis` counts those) goes exactly when `atoms[i]` does."""

    label: Label
    axis: int
    atoms: Atoms


@dataclass(frozen=True, eq=False)
class Fixed:
    """These atoms cannot go, because."""

    atoms: Atoms
    reason: str


@dataclass(frozen=True, eq=False)
class Balanced:
    """Every row of `atoms` (rows × positions) must lose equally many, because."""

    atoms: Atoms
    reason: str


@dataclass(frozen=True, eq=False)
class Size:
    """An integer of the node follows a label: element `element` of input or attribute `place`.

    Its new value is the number of positions along `label.axes[axis]` that stay, of the first `upto` if that is
    given. `current` is the whole list as it stands, for an input that is left out or computed; `pinned`: the element
    keeps its current value, although it is computed from the label's size.
    """

    node: ir.Node
    place: int | str
    element: int | None
    label: Label
    axis: int = 0
    upto: int | None = None
    current: tuple[int, ...] = ()
    pinned: bool = False


@dataclass(frozen=True, eq=False)
class Follow:
    """A size is computed at run time in proportion to that of another axis: both must always lose in proportion.

    `source` and `target` are a label and which of its axes; of the target only the first `upto` positions count.
    """

    source: tuple[Label, int]
    target: tuple[Label, int]
    upto: int
    reason: str


@dataclass(frozen=True)
class Settled:
    """Element `element` of the integers at input `index` is computed from labelled sizes, and the rule saw to it."""

    index: int
    element: int


@dataclass(frozen=True, eq=False)
class Index:
    """Input `place` of `node` holds positions along the axis of `label`: those that stay are numbered anew."""

    node: ir.Node
    place: int
    label: Label


Kind = Literal["conv", "conv_transpose", "gemm", "matmul", "left_matmul", "recurrent"]


@dataclass(frozen=True, eq=False)
class Linear:
    """A layer Y = X Wᵀ + b with a constant weight, in `groups` independent blocks.

    `features` (groups, F) and `outputs` (groups, n) hold the atom of each column of X and of Y. `refit` is false
    where columns of X do not mix (depthwise) or X is Y of the step before (recurrent). The Y of a recurrent layer is
    what its gates take in, `y` the units that those make. `macs` counts the multiply–adds of one weight element in the
    traced run. `decode` makes real numbers of a weight in quanta; `kernel` is the window of a convolution.
    """

    node: ir.Node
    kind: Kind
    x: ir.Value
    weight: ir.Value
    bias: ir.Value | None
    y: ir.Value
    groups: int
    features: Atoms
    outputs: Atoms
    macs: int
    refit: bool = True
    decode: Callable[[Array], Array] | None = None
    kernel: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Product:
    """A product of two activations (attention): `macs` multiply–adds in the traced run, in proportion to a label."""

    node: ir.Node
    macs: int
    label: Label | None = None


Fact = Out | Param | Summed | Part | Tie | Lines | Fixed | Balanced | Size | Follow | Settled | Index | Linear | Product
Facts = Iterator[Fact]
