"""The twin: a graph as a torch module whose parameters are the graph's own constants, by their own names."""

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Union, overload

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import InlinePass

from onnxprune.errors import BadInput
from onnxprune.model_io import Loaded, ModelSource, like, load
from onnxprune.torch_twin import ops as _ops  # noqa: F401  (registers the functions)
from onnxprune.torch_twin.constants import Constant, constants_of
from onnxprune.torch_twin.program import Program
from onnxprune.torch_twin.registry import NUMBERS
from onnxprune.torch_twin.tensors import LEARNED, to_array, to_tensor

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

STATISTICS = {("", "BatchNormalization"): {3, 4}}
"""Inputs that are measured, not learned: buffers."""


class Twin(torch.nn.Module):  # type: ignore[misc]  # torch is not checked
    """Runs an onnx-ir graph in torch. It computes what onnxruntime does in inference mode, also while training.

    Each constant of floating point is a parameter under its exact name (`a.b` and `a_b` are two), once however often it
    is read; those that `frozen` names by glob, and single numbers of no axis, have no gradient. Running statistics are
    buffers; whole numbers, settings as the scales of Resize, and what local functions hold, stay as they are, and on
    the CPU until they are used. The model is not changed; see `write_back`.
    """

    def __init__(self, model: ir.Model, frozen: Sequence[str] = ()) -> None:
        super().__init__()
        own = {constant.key for constant in constants_of(model)}
        model = model.clone()
        InlinePass()(model)
        held = constants_of(model)
        self._whole: dict[str, Any] = {}
        for constant in held:
            self._enter(constant, constant.key in own, frozen)
        self._program = Program(model.graph, model, {constant.value: constant.key for constant in held})
        self._overridable = {value.name for value in model.graph.inputs if value.is_initializer()}
        self.input_names = self._program.inputs
        self.output_names = tuple(value.name or "" for value in model.graph.outputs)

    def forward(self, *inputs: torch.Tensor, **named: torch.Tensor) -> dict[str, torch.Tensor]:
        """The outputs by name, for inputs in the graph's order or by name (`twin(**feeds)`)."""
        given = dict(zip(self.input_names, inputs, strict=False)) | named
        self._require(given, len(inputs))
        own = {**dict(self._buffers), **dict(self._parameters)}
        away = any(isinstance(t, torch.Tensor) and t.device.type != "cpu" for t in (*own.values(), *given.values()))
        return dict(zip(self.output_names, self._program.run({**self._whole, **own, **given}, away), strict=True))

    def _require(self, given: Mapping[str, Any], count: int) -> None:
        missing = [name for name in self.input_names if name not in given]
        unknown = [name for name in given if name not in self.input_names and name not in self._overridable]
        if missing or unknown or count > len(self.input_names):
            wants = f"the model has the inputs {', '.join(self.input_names)}"
            raise BadInput(f"{wants}: missing {missing}, unknown {unknown}, {count} given by their order")

    @overload
    def write_back(self, model: ir.Model) -> ir.Model: ...
    @overload
    def write_back(self, model: ModelSource) -> Union[ir.Model, bytes, "onnx.ModelProto", "gs.Graph"]: ...
    def write_back(self, model: ModelSource) -> Union[ir.Model, bytes, "onnx.ModelProto", "gs.Graph"]:
        """The model with the twin's values in its constants; those that did not change stay the same objects.

        What comes back is of the kind that is given; for a path, an `ir.Model`. Raises BadInput where the model has no
        such constant, or one of another shape.
        """
        loaded = Loaded(model.clone(), "ir", None) if isinstance(model, ir.Model) else load(model)
        self._write_into(loaded.model)
        return like(loaded.model, loaded)

    def _write_into(self, model: ir.Model) -> None:
        own = {**dict(self._parameters), **dict(self._buffers)}
        known = {constant.key: constant for constant in constants_of(model)}
        for name, tensor in own.items():
            if name not in known or known[name].tensor.shape.numpy() != tuple(tensor.shape):
                raise BadInput(f"the model has no constant {name!r} of shape {tuple(tensor.shape)} to write back to")
            array = to_array(tensor)
            if not _same_bits(array, known[name].tensor.numpy()):
                known[name].replace(array)

    def _enter(self, constant: Constant, own: bool, frozen: Sequence[str]) -> None:
        tensor = to_tensor(constant.tensor.numpy())
        dtype = getattr(tensor, "dtype", None)
        if not own or dtype not in LEARNED or _only_read_by(constant, NUMBERS):
            self._whole[constant.key] = tensor
        elif _only_read_by(constant, STATISTICS):
            self._buffers[constant.key] = tensor
        else:
            learned = tensor.ndim > 0 and not any(fnmatchcase(constant.key, glob) for glob in frozen)
            # Not register_parameter, which refuses names with a dot; everything else takes them.
            self._parameters[constant.key] = torch.nn.Parameter(tensor, requires_grad=learned)


def _only_read_by(constant: Constant, places: Mapping[tuple[str, str], Collection[int]]) -> bool:
    """Whether it is read, and only at these inputs of these operators."""
    uses = [((node.domain.replace("ai.onnx", ""), node.op_type), index) for node, index in constant.value.uses()]
    return bool(uses) and all(index in places.get(key, ()) for key, index in uses)


def _same_bits(ones: np.ndarray, others: np.ndarray) -> bool:
    return ones.dtype == others.dtype and ones.tobytes() == others.tobytes()
