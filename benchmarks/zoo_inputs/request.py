"""What a maker of inputs is told."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

Array = np.ndarray[Any, np.dtype[Any]]
Feeds = Mapping[str, Array]


class Missing(Exception):
    """Something that real inputs are made with is not installed; the message says what, and how to get it."""


@dataclass(frozen=True)
class Request:
    """How many inputs of which model; those held out come from other photographs, sentences and files."""

    inputs: Mapping[str, onnx.ValueInfoProto]
    path: Path
    cache: Path
    count: int
    rng: np.random.Generator
    held_out: bool

    def mine(self, things: list[Any]) -> list[Any]:
        """The half of things that these inputs may be made of."""
        return things[int(self.held_out) :: 2]

    def dims(self, name: str) -> list[int | str]:
        """The declared shape of an input: numbers, and names of what is open."""
        dims = self.inputs[name].type.tensor_type.shape.dim
        return [d.dim_value if d.HasField("dim_value") else d.dim_param for d in dims]
