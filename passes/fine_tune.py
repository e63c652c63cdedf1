"""Fine-tuning: train the torch twin of a model, and write its values back by name; nothing else changes."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import onnx_ir as ir

from onnxprune.graph import values_by_name

if TYPE_CHECKING:
    from onnxprune.torch_twin import Twin

Found = TypeVar("Found")


def fine_tune(model: ir.Model, train: Callable[["Twin"], Found], inner: Sequence[str] = ()) -> tuple[ir.Model, Found]:
    """The model with the constants that `train` left in its twin, and what `train` returned.

    The twin hands out the values named `inner` beside the model's outputs.
    """
    from onnxprune.torch_twin import Twin

    twin = Twin(with_outputs(model, inner))
    found = train(twin)
    return twin.write_back(model), found


def with_outputs(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """The model, with further values as outputs."""
    model = model.clone()
    values, have = values_by_name(model), {value.name for value in model.graph.outputs}
    model.graph.outputs.extend(values[name] for name in names if name not in have)
    return model
