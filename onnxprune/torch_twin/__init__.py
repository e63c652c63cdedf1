"""The torch twin: runs an ONNX graph in torch, one function an operator, one parameter an initializer.

torch is imported when the twin is first asked for: without it the package can be imported all the same.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from threading import RLock
from typing import TYPE_CHECKING, Any

from onnxprune.errors import BadInput
from onnxprune.model_io import ModelSource, load

if TYPE_CHECKING:
    from onnxprune.torch_twin.module import Twin

__all__ = ["Twin", "require_torch", "to_torch"]


ONE_AT_A_TIME = RLock()
"""Held by what changes torch's own generator or number of threads, which all threads of a process share."""


def to_torch(model: ModelSource, frozen: Sequence[str] = ()) -> "Twin":
    """A torch module that computes what the model does; its parameters are the model's constants, by their own names.

    `frozen` are globs of names that shall have no gradient. `Twin.write_back` puts trained values into a model.

    Raises:
        BadInput: the model cannot be read, or torch is not installed.
    """
    twin: Twin = __getattr__("Twin")(load(model).model, frozen)
    return twin


def __getattr__(name: str) -> Any:
    if name != "Twin":
        raise AttributeError(f"module 'onnxprune.torch_twin' has no attribute {name!r}")
    require_torch("the torch twin")
    from onnxprune.torch_twin.module import Twin

    return Twin


def require_torch(what: str) -> None:
    """Raises BadInput, which says what to install, where torch is missing."""
    if find_spec("torch") is None:
        raise BadInput(f"{what} needs torch, which is not installed: pip install 'onnxprune[torch]'")
