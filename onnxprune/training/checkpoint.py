"""Where a run of training stands, in a file that appears whole or not at all."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onnxprune.atomic import write_bytes
from onnxprune.errors import BadInput

FORMAT = 1


def fingerprint(parameters: Mapping[str, Tensor], settings: str) -> str:
    """What a run begins with: the weights, and whatever else decides where it ends."""
    found = hashlib.sha256(settings.encode())
    for name, parameter in parameters.items():
        found.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        found.update(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


class Checkpoint:
    """A file that holds one state of the run that has a fingerprint."""

    def __init__(self, path: Path | None, run: str) -> None:
        self._path, self._run = path, run

    def write(self, state: Mapping[str, Any]) -> None:
        """Replace the file. Raises BadInput where the disk is full."""
        if self._path is None:
            return
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, "run": self._run, **state}, buffer)
        write_bytes(self._path, buffer.getvalue())

    def read(self) -> dict[str, Any] | None:
        """The state in the file; None where there is no file.

        Raises BadInput where it belongs to another run, or is no checkpoint.
        """
        if self._path is None or not self._path.exists():
            return None
        try:
            state = torch.load(self._path, map_location="cpu", weights_only=True)  # runs no code from the file
        except Exception as error:  # pickle and zip raise many types
            raise BadInput(f"{self._path} is no checkpoint of onnxprune: remove it, or leave --resume out") from error
        if not isinstance(state, dict) or (state.get("format"), state.get("run")) != (FORMAT, self._run):
            raise BadInput(
                f"{self._path} is the checkpoint of another run (model, data or options differ): give what it was "
                "started with, or leave --resume out"
            )
        return state
