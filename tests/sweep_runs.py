"""Sweeps of the tiny network: short, and with an eye on what is run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_case import tiny_inputs, tiny_model

from onnxprune.sweeping import run
from onnxprune.sweeping.facts import Sweep

QUICK: dict[str, Any] = {"align": 1, "samples": 16, "measure": False}
METHODS = "obs,magnitude,none+fc=as"
BUDGETS = "0.8,0.5"


def swept(folder: Path, **options: Any) -> Sweep:
    given = {"methods": METHODS, "budgets": BUDGETS, "calib": tiny_inputs(), **QUICK, **options}
    return run.sweep(given.pop("model", tiny_model()), folder, **given)


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
    y = outputs(tiny_model(), {"x": x})["y"].argmax(-1)
    y[::4] = (y[::4] + 1) % 4
    path = folder / "labelled.npz"
    np.savez(path, x=x, y=y)
    return str(path)
