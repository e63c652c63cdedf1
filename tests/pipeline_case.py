"""Small networks, inputs for them, and short runs."""

from typing import Any

import numpy as np
import onnx
from cli_case import tiny_inputs, tiny_model
from dense_mask import run
from model_counts import constants
from topologies import TOPOLOGIES

from onnxprune.pipeline import Result, compress

QUICK: dict[str, Any] = {"align": 1, "samples": 32, "measure": False}


def pictures(count: int, shape: tuple[int, ...] = (3, 16, 16), seed: int = 3) -> np.ndarray:
    """Correlated inputs, as pictures are: noise summed along both sides, of unit deviation."""
    noise = np.random.default_rng(seed).standard_normal((count, *shape)).cumsum(-1).cumsum(-2)
    noise -= noise.mean((-1, -2), keepdims=True)
    return (noise / noise.std()).astype(np.float32)


def resnet() -> onnx.ModelProto:
    return TOPOLOGIES["resnet-text"]()


def prune(model: Any, data: object, **options: Any) -> Result:
    return compress(model, calib=data, **QUICK | options)


def tiny(**options: Any) -> Result:
    return prune(tiny_model(), tiny_inputs(), **options)


def widths(model: onnx.ModelProto) -> dict[str, int]:
    """Output channels of each convolution, by its weight's name."""
    weights = constants(model)
    return {node.input[1]: len(weights[node.input[1]]) for node in model.graph.node if node.op_type == "Conv"}


def error(pruned: onnx.ModelProto, original: onnx.ModelProto, inputs: np.ndarray) -> float:
    """‖y − y₀‖ / ‖y₀ − mean‖ on inputs that no one solved on."""
    found, wanted = run(pruned, {"x": inputs})["y"], run(original, {"x": inputs})["y"]
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted - wanted.mean(0)))
