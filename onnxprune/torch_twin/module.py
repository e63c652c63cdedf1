"""The twin: a graph as a torch module whose parameters are the graph's own constants, by their own names."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import InlinePass

from onnxprune.errors import BadInput
from onnxprune.torch_twin import ops as _ops  # noqa: F401  (registers the functions)
from onnxprune.torch_twin.constants import Constant, constants_of
from onnxprune.torch_twin.program import Program
from onnxprune.torch_twin.tensors import to_array, to_tensor

STATISTICS = {("BatchNormalization", 3), ("BatchNormalization", 4)}
"""Inputs that are measured, not learned: buffers."""


class Twin(torch.nn.Module):  # type: ignore[misc]  # torch is not checked
    """Runs an onnx-ir graph in torch. It computes what onnxruntime does in inference mode, also while training.

    Each constant of floating point is a parameter under its exact name (`a.b` and `a_b` are two), once however often it
    is read; those that `frozen` names by glob, and single numbers of no axis, have no gradient. Running statistics are
    buffers; whole numbers, and what local functions hold, stay as they are. The model is not changed; see `write_back`.
    """

    def __init__(self, model: ir.Model, frozen: Sequence[str] = ()) -> None:
        super().__init__()
        own = {constant.key for constant in constants_of(model)}
        model = model.clone()
        InlinePass()(model)
        held = constants_of(model)
        self._whole: dict[str, torch.Tensor] = {}
        for constant in held:
            self._enter(constant, constant.key in own, frozen)
        self._program = Program(model.graph, model, {constant.value: constant.key for constant in held})
        self.input_names = self._program.inputs
        self.output_names = tuple(value.name or "" for value in model.graph.outputs)

    def forward(self, *inputs: torch.Tensor, **named: torch.Tensor) -> dict[str, torch.Tensor]:
        """The outputs by name, for inputs in the graph's order or by name (`twin(**feeds)`)."""
        values: dict[str, Any] = {**self._whole, **dict(self._buffers), **dict(self._parameters)}
        values |= dict(zip(self.input_names, inputs, strict=False)) | named
        return dict(zip(self.output_names, self._program.run(values), strict=True))

    def write_back(self, model: ir.Model) -> ir.Model:
        """The model with the twin's values in its constants; those that did not change stay the same objects.

        Raises BadInput where it has no such constant, or one of another shape.
        """
        model = model.clone()
        own = {**dict(self._parameters), **dict(self._buffers)}
        known = {constant.key: constant for constant in constants_of(model)}
        for name, tensor in own.items():
            if name not in known or known[name].tensor.shape.numpy() != tuple(tensor.shape):
                raise BadInput(f"the model has no constant {name!r} of shape {tuple(tensor.shape)} to write back to")
            array = to_array(tensor)
            if not _same_bits(array, known[name].tensor.numpy()):
                known[name].replace(array)
        return model

    def _enter(self, constant: Constant, own: bool, frozen: Sequence[str]) -> None:
        tensor = to_tensor(constant.tensor.numpy())
        readers = {(node.op_type, index) for node, index in constant.value.uses()}
        if not (own and tensor.is_floating_point()):
            self._whole[constant.key] = tensor
        elif readers and readers <= STATISTICS:
            self._buffers[constant.key] = tensor
        else:
            learned = tensor.ndim > 0 and not any(fnmatchcase(constant.key, glob) for glob in frozen)
            # Not register_parameter, which refuses names with a dot; everything else takes them.
            self._parameters[constant.key] = torch.nn.Parameter(tensor, requires_grad=learned)


def _same_bits(ones: np.ndarray, others: np.ndarray) -> bool:
    return ones.dtype == others.dtype and ones.tobytes() == others.tobytes()
