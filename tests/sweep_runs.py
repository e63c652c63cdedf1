"""Sweeps of the tiny network: short, and with an eye on what is run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_case import tiny_inputs
from graph_text import model_from_text

from onnxprune.sweeping import run
from onnxprune.sweeping.facts import Sweep

QUICK: dict[str, Any] = {"align": 1, "samples": 16, "measure": False}
METHODS = "obs,magnitude,obs+fc=as"
BUDGETS = "0.8,0.5"
BODY = """
h0 = Conv <pads = [1, 1, 1, 1]> (x, c0_w, c0_b)
r0 = Relu (h0)
g = GlobalAveragePool (r0)
f = Flatten (g)
h1 = Gemm <transB = 1> (f, f1_w, f1_b)
r1 = Relu (h1)
y = Gemm <transB = 1> (r1, f2_w, f2_b)
"""
WEIGHTS = {"c0_w": (8, 3, 3, 3), "c0_b": (8,), "f1_w": (64, 8), "f1_b": (64,), "f2_w": (4, 64), "f2_b": (4,)}


def model() -> onnx.ModelProto:
    """A convolution of 8 channels, and two layers behind it, one of which may become a product."""
    return model_from_text("(float[N, 3, 8, 8] x) => (float[N, 4] y)", BODY, WEIGHTS)


def swept(folder: Path, **options: Any) -> Sweep:
    given = {"methods": METHODS, "budgets": BUDGETS, "calib": tiny_inputs(), **QUICK, **options}
    return run.sweep(model(), folder, **given)


def watch(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[Any]:
    """Count the calls of a function, which still works."""
    calls: list[Any] = []
    whole: Callable[..., Any] = getattr(module, name)

    def watched(*arguments: Any, **options: Any) -> Any:
        calls.append(options.get("config"))
        return whole(*arguments, **options)

    monkeypatch.setattr(module, name, watched)
    return calls


def labelled(folder: Path) -> str:
    """Inputs of the tiny network with the classes that it says itself, every fourth one wrong."""
    from dense_mask import run as outputs

    x = tiny_inputs(64)
    y = outputs(model(), {"x": x})["y"].argmax(-1)
    y[::4] = (y[::4] + 1) % 4
    path = folder / "labelled.npz"
    np.savez(path, x=x, y=y)
    return str(path)
