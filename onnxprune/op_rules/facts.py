"""What an operator rule says: small facts about labels, collected by `dependency.py`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnxprune.labels import Atoms, Label, Labels


@dataclass(frozen=True, eq=False)
class Out:
    """Output `index` of the node carries these labels."""

    index: int
    labels: Labels


@dataclass(frozen=True, eq=False)
class Param:
    """The constant at input `index` is sliced along with `label`; `contracted` where the op sums over that axis."""

    index: int
    label: Label
    contracted: bool = False


@dataclass(frozen=True, eq=False)
class Tie:
    """Two equally shaped atom arrays go together, position by position."""

    left: Atoms
    right: Atoms


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

    Its new value is the number of positions along `label.axes[axis]` that stay. `current` is the whole list as it
    stands, for nodes that leave it out.
    """

    node: ir.Node
    place: int | str
    element: int | None
    label: Label
    axis: int = 0
    current: tuple[int, ...] = ()


Kind = Literal["conv", "conv_transpose", "gemm", "matmul", "left_matmul"]


@dataclass(frozen=True, eq=False)
class Linear:
    """A layer Y = X Wᵀ + b with a constant weight, in `groups` independent blocks.

    `features` (groups, F) and `outputs` (groups, n) hold the atom of each column of X and of Y. `refit` is false
    where columns of X do not mix (depthwise). `macs` counts the multiply–adds of one weight element in the traced run.
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


@dataclass(frozen=True, eq=False)
class Product:
    """A product of two activations (attention): `macs` multiply–adds in the traced run."""

    node: ir.Node
    macs: int


Fact = Out | Param | Tie | Fixed | Balanced | Size | Linear | Product
Facts = Iterator[Fact]
