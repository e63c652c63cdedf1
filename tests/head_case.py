"""Small networks that end in fully connected layers, and what a new head should hold by plain least squares."""

from typing import Any

import numpy as np
import onnx
from dense_mask import run
from graph_text import Weights, model_from_text
from pipeline_case import QUICK, pictures

from onnxprune.config import Config
from onnxprune.model_io import load
from onnxprune.pipeline import Result, compress
from onnxprune.prepare import open_data

BODY = """
h0 = Conv <pads = [1, 1, 1, 1]> (x, c0_w, c0_b)
r0 = Relu (h0)
p0 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r0)
h1 = Conv <pads = [1, 1, 1, 1]> (p0, c1_w, c1_b)
r1 = Relu (h1)
"""
TAIL = """
f = Flatten (r1)
h2 = Gemm <transB = 1> (f, d_w, d_b)
r2 = Relu (h2)
o2 = Dropout (r2)
z = Gemm <transB = 1> (o2, e_w, e_b)
y = Softmax <axis = 1> (z)
"""
CONVS: Weights = {"c0_w": (8, 3, 3, 3), "c0_b": (8,), "c1_w": (12, 8, 3, 3), "c1_b": (12,)}
DENSE: Weights = {"d_w": (24, 192), "d_b": (24,), "e_w": (5, 24), "e_b": (5,)}
SIGNATURE = "(float[N, 3, 8, 8] x) => (float[N, 5] y)"
BARE: dict[str, Any] = {"head": "gap", "macs": 1, "method": "magnitude", "rebuild": "none", "measure": False}
"""Nothing happens but the new head."""


def vgg(tail: str = TAIL, more: Weights | None = None, signature: str = SIGNATURE, **options: int) -> onnx.ModelProto:
    """Two convolutions, and layers on their 12 channels of 4 × 4 positions."""
    return model_from_text(signature, BODY + tail, {**CONVS, **(DENSE if more is None else more)}, **options)


def inputs(count: int = 200, seed: int = 3) -> np.ndarray:
    """Seeded inputs of `vgg`."""
    return pictures(count, (3, 8, 8), seed)


def headed(model: onnx.ModelProto, data: object = None, **options: Any) -> Result:
    """The model with a new head, and nothing else changed unless the options say so."""
    return compress(model, calib=inputs() if data is None else data, **QUICK | {"samples": 128} | BARE | options)


def seen_rows(model: onnx.ModelProto, data: np.ndarray, samples: int = 128) -> np.ndarray:
    """The inputs that a run solves on."""
    opened = open_data(load(model).model, data, Config(samples=samples))
    return np.concatenate([feeds["x"] for feeds in opened.source.batches()])


def values(model: onnx.ModelProto, names: list[str], feeds: np.ndarray) -> list[np.ndarray]:
    """What inner values hold."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    known = {value.name for value in shown.graph.output}
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    found = run(shown, {"x": feeds})
    return [found[name] for name in names]


def least_squares(x: np.ndarray, y: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Weight (n, C) and bias of rows, a ridge as rows of its own; relative to the mean variance of a channel."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    mean_x, mean_y = x.mean(0), y.mean(0)
    pull = np.sqrt(ridge * len(x) * x.var(0).mean()) * np.eye(x.shape[1])
    left, right = np.vstack([x - mean_x, pull]), np.vstack([y - mean_y, np.zeros((x.shape[1], y.shape[1]))])
    weight = np.linalg.lstsq(left, right, rcond=None)[0].T
    return weight, mean_y - weight @ mean_x
