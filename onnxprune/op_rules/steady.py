"""What operators make of channels that hold one number everywhere, whatever the input of the model."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxprune.graph import Array
from onnxprune.op_rules.elementwise import broadcast, unary
from onnxprune.op_rules.facts import Linear
from onnxprune.op_rules.registry import RULES, Op

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Steady:
    """What is certain of a tensor: where `known`, it holds `numbers`. Both have its rank, and size 1 where alike."""

    numbers: Array
    known: Mask


Keeps = Callable[[Op, Array], Mask]
KEEPS: dict[str, Keeps] = {}
MOVING = [
    *("Concat", "Expand", "Flatten", "Gather", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile"),
    *("Transpose", "Unsqueeze"),
]
AVERAGING = ["GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceMax", "ReduceMean", "ReduceMin"]
GATHERS = frozenset({"ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare"})
"""What these make of a channel, they make of all that lies on the reduced axes: a label there tells of a part."""


def keeps(*op_types: str) -> Callable[[Keeps], Keeps]:
    """Register the decorated function: which numbers a channel of these operators' input hands on to its output."""

    def register(function: Keeps) -> Keeps:
        KEEPS.update(dict.fromkeys(op_types, function))
        return function

    return register


@keeps(*MOVING, *AVERAGING)
def _every(op: Op, numbers: Array) -> Mask:
    """What moves, repeats or averages equal numbers leaves them; a maximum does not see its padding."""
    return np.ones(numbers.shape, np.bool_)


@keeps("CumSum", "GlobalLpPool", "LpPool", "ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare")
def _zeros(op: Op, numbers: Array) -> Mask:
    return np.asarray(numbers == 0)


@keeps("AveragePool")
def _averaged(op: Op, numbers: Array) -> Mask:
    padded = op.attr("count_include_pad", 0) or op.attr("ceil_mode", 0)
    return _zeros(op, numbers) if padded else _every(op, numbers)


@keeps("Resize", "Upsample")
def _resized(op: Op, numbers: Array) -> Mask:
    outside = op.attr("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    return np.zeros(numbers.shape, np.bool_) if outside else _every(op, numbers)


@keeps("Pad")
def _padded(op: Op, numbers: Array) -> Mask:
    """What stands on the border must be the same number."""
    if op.attr("mode", "constant") != "constant":
        return _every(op, numbers)
    given = op.array(2) if op.has(2) else np.asarray(op.attr("value", 0.0))
    return np.zeros(numbers.shape, np.bool_) if given is None else np.asarray(numbers == given.reshape(()))


def pointwise(op: Op) -> bool:
    """Whether every position of the output depends on the same position of the inputs, and on nothing else."""
    training = op.node.op_type == "Dropout" and op.has(2)
    return RULES.get((op.domain, op.node.op_type)) in (unary, broadcast) and not training


def decided(op: Op, given: list[Steady]) -> Mask:
    """The positions of a pointwise operator's output that its inputs decide: all are known, or one known is enough."""
    known = [one.known for one in given]
    if op.node.op_type == "Where":
        chosen = np.where(given[0].numbers.astype(np.bool_), known[1], known[2])
        return np.asarray(known[0] & chosen)
    every = known[0]
    for mask in known[1:]:
        every = every & mask
    if op.node.op_type == "Mul":
        for one in given:
            every = every | (one.known & (one.numbers == 0))
    return np.asarray(every)


def normalised(op: Op) -> Mask | None:
    """Channels that a normalisation multiplies by zero: it puts its shift there; None if it is no such operator."""
    if op.node.op_type not in ("BatchNormalization", "InstanceNormalization") or op.attr("training_mode", 0):
        return None
    arrays = [op.array(index) for index in (1, 2)]
    return None if any(array is None for array in arrays) else np.asarray(arrays[0] == 0)


def channelwise(op: Op) -> bool:
    """Whether an operator with a number for each channel works position by position all the same."""
    fixed = all(op.array(index) is not None for index in range(1, len(op.node.inputs)))
    return op.node.op_type == "BatchNormalization" and not op.attr("training_mode", 0) and fixed


def affine(linear: Linear) -> bool:
    """Whether a layer gives X Wᵀ + b and nothing else, on real numbers; a depthwise convolution does."""
    plain = linear.node.domain in ("", "ai.onnx") and linear.node.op_type in ("Conv", "ConvTranspose")
    kinds = ("conv", "conv_transpose", "gemm", "matmul")
    return linear.kind in kinds and linear.decode is None and (linear.refit or plain)


def sees_borders(linear: Linear) -> bool:
    """Whether some outputs of a layer are computed from zeros in the place of inputs, or from fewer inputs."""
    if linear.kind == "conv_transpose":
        return True
    given = linear.node.attributes.get("auto_pad")
    auto = "NOTSET" if given is None else given.as_string()
    if auto == "NOTSET":
        pads = linear.node.attributes.get("pads")
        return linear.kind == "conv" and pads is not None and any(pads.as_ints())
    return auto.startswith("SAME") and any(size > 1 for size in linear.kernel)


def channel_axis(linear: Linear) -> int:
    """The axis of an affine layer's input and output that its channels lie on."""
    return 1 if linear.kind != "matmul" else -1
