"""A tiny network on disk, its data, and the command line run in this process."""

from pathlib import Path

import numpy as np
import onnx
from graph_text import batchnorm, model_from_text

BODY = """
h0 = Conv <pads = [1, 1, 1, 1]> (x, c0_w, c0_b)
r0 = Relu (h0)
h1 = Conv <pads = [1, 1, 1, 1]> (r0, c1_w)
n1 = BatchNormalization (h1, n1_gamma, n1_beta, n1_mean, n1_var)
r1 = Relu (n1)
g = GlobalAveragePool (r1)
f = Flatten (g)
y = Gemm <transB = 1> (f, fc_w, fc_b)
"""
WEIGHTS = {
    "c0_w": (8, 3, 3, 3),
    "c0_b": (8,),
    "c1_w": (8, 8, 3, 3),
    "fc_w": (4, 8),
    "fc_b": (4,),
    **batchnorm("n1", 8),
}
FAST = ("--align", "1", "--samples", "16", "--no-measure")
"""Options that make a run on the tiny network short."""


def tiny_model() -> onnx.ModelProto:
    """Two convolutions of 8 channels and a classifier of 4 classes; float[N, 3, 8, 8] x."""
    return model_from_text("(float[N, 3, 8, 8] x) => (float[N, 4] y)", BODY, WEIGHTS)


def tiny_inputs(count: int = 32) -> np.ndarray:
    """Seeded inputs of the tiny network."""
    return np.random.default_rng(5).standard_normal((count, 3, 8, 8)).astype(np.float32)


def write_case(folder: Path) -> tuple[Path, Path]:
    """(in.onnx, calib.npz) in the folder."""
    model, calib = folder / "in.onnx", folder / "calib.npz"
    onnx.save(tiny_model(), model)
    np.savez(calib, x=tiny_inputs(), y=np.arange(32) % 4)
    return model, calib
