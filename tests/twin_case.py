"""One operator in the torch twin: its values beside the runtime's, its gradients beside finite differences."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from graph_text import model_from_text
from onnx.reference import ReferenceEvaluator

from onnxprune.runtime import open_session, run

Arrays = dict[str, np.ndarray]
TEXT = {"float32": "float", "float64": "double"}
"""What ONNX's text calls a type of numpy, where the names differ."""


@dataclass(frozen=True)
class Case:
    """A node as text, what it is fed with, and whether it has a gradient.

    `reference` takes ONNX's evaluator for the oracle, where the runtime has no such operator. Inputs named in `still`
    have no gradient.
    """

    body: str
    feeds: Arrays
    opset: int = 17
    smooth: bool = True
    reference: bool = False
    tolerance: float = 1e-5
    still: str = ""

    def __str__(self) -> str:
        body = " ".join(self.body.split())
        return f"{body} opset {self.opset} {' '.join(str(list(a.shape)) for a in self.feeds.values())}"

    def proto(self) -> onnx.ModelProto:
        """The node as a model, its inputs with their shapes, its outputs without."""
        kinds = {name: TEXT.get(a.dtype.name, a.dtype.name) for name, a in self.feeds.items()}
        signature = ", ".join(f"{kind} {name}" for name, kind in kinds.items())
        proto = model_from_text(f"({signature}) => ()", self.body, {}, self.opset, ir=10)
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in proto.graph.node[-1].output if name)
        for value, array in zip(proto.graph.input, self.feeds.values(), strict=True):
            value.type.tensor_type.ClearField("shape")
            for size in array.shape:
                value.type.tensor_type.shape.dim.add().dim_value = size
        return proto

    def expected(self) -> Arrays:
        """What onnxruntime computes, or ONNX's evaluator."""
        proto = self.proto()
        if self.reference:
            names = [value.name for value in proto.graph.output]
            found = ReferenceEvaluator(proto).run(None, dict(self.feeds))
            return {name: np.asarray(array) for name, array in zip(names, found, strict=True)}
        return run(open_session(ir.from_proto(proto), threads=1, optimise=False), self.feeds)


def case(body: str, opset: int = 17, **given: Any) -> Case:
    """A case; a tuple among the inputs is the shape of normal numbers."""
    options = {name: given.pop(name) for name in ("smooth", "reference", "tolerance", "still") if name in given}
    rng = np.random.default_rng(sum(map(ord, body)))
    feeds = {n: normal(rng, v) if isinstance(v, tuple) else np.asarray(v) for n, v in given.items()}
    return Case(body, feeds, opset, **options)


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def uniform(low: float, high: float, *shape: int) -> np.ndarray:
    """Numbers between two bounds."""
    return np.random.default_rng(len(shape)).uniform(low, high, shape).astype(np.float32)


def integers(low: int, high: int, *shape: int, kind: str = "int64") -> np.ndarray:
    """Whole numbers from one bound to below another."""
    return np.random.default_rng(high - low).integers(low, high, shape).astype(kind)
