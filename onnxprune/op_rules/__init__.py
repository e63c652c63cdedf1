"""Operator rules, one function an operator, a file a family.

A rule says which atoms its outputs carry, which go together, which constants are sliced along, and which integers
hold a size. An operator without a rule is a barrier: it fixes the atoms that reach it, and says so.
"""

from onnxprune.op_rules import (
    along,
    attention,
    attention_axes,
    blocks,
    control,
    einsum,
    elementwise,
    fill,
    fused,
    fused_norm,
    indexing,
    join,
    layout,
    linear,
    matmul,
    norm,
    packed,
    quantise,
    quantised,
    quantised_layers,
    recurrent,
    reduce,
    sampling,
)
from onnxprune.op_rules.registry import RULES, Op, Rule, rule

__all__ = [
    "RULES",
    "Op",
    "Rule",
    "along",
    "attention",
    "attention_axes",
    "blocks",
    "control",
    "einsum",
    "elementwise",
    "fill",
    "fused",
    "fused_norm",
    "indexing",
    "join",
    "layout",
    "linear",
    "matmul",
    "norm",
    "packed",
    "quantise",
    "quantised",
    "quantised_layers",
    "recurrent",
    "reduce",
    "rule",
    "sampling",
]
