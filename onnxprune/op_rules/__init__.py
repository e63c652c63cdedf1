"""Operator rules, one function an operator, a file a family.

A rule says which atoms its outputs carry, which go together, which constants are sliced along, and which integers
hold a size. An operator without a rule is a barrier: it fixes the atoms that reach it, and says so.
"""

from onnxprune.op_rules import (
    control,
    elementwise,
    join,
    layout,
    linear,
    packed,
    quantise,
    quantised,
    quantised_layers,
    reduce,
)
from onnxprune.op_rules.registry import RULES, Op, Rule, rule

__all__ = [
    "RULES",
    "Op",
    "Rule",
    "control",
    "elementwise",
    "join",
    "layout",
    "linear",
    "packed",
    "quantise",
    "quantised",
    "quantised_layers",
    "reduce",
    "rule",
]
