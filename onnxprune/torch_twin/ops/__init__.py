"""Operators in torch, one function an operator, a file a family; importing this package registers them."""

from onnxprune.torch_twin.ops import (
    control,
    elementwise,
    indexing,
    layers,
    layout,
    made,
    norms,
    quantise,
    recurrent,
    reduce,
    resize,
)

__all__ = [
    "control",
    "elementwise",
    "indexing",
    "layers",
    "layout",
    "made",
    "norms",
    "quantise",
    "recurrent",
    "reduce",
    "resize",
]
