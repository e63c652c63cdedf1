"""onnxprune: a trained ONNX model in, a smaller and faster one out, with a proof."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.errors import BadInput, BudgetNotMet, OnnxPruneError, ProofFailed
from onnxprune.version import __version__

if TYPE_CHECKING:
    from onnxprune.config import Config
    from onnxprune.curves import sensitivity
    from onnxprune.finetuning import finetune
    from onnxprune.folding import Folded, FoldReport, fold
    from onnxprune.inspection import inspect
    from onnxprune.pipeline import Result, compress
    from onnxprune.plan import Plan, load_plan
    from onnxprune.replay import apply_plan
    from onnxprune.report import Report, Sensitivity
    from onnxprune.sweeping.run import sweep
    from onnxprune.torch_twin import to_torch

# Imported when first used: `onnxprune --help` should not wait for onnx and numpy.
_LAZY = {
    "Config": "onnxprune.config",
    "FoldReport": "onnxprune.folding",
    "Folded": "onnxprune.folding",
    "Plan": "onnxprune.plan",
    "Report": "onnxprune.report",
    "Result": "onnxprune.pipeline",
    "Sensitivity": "onnxprune.report",
    "apply_plan": "onnxprune.replay",
    "compress": "onnxprune.pipeline",
    "finetune": "onnxprune.finetuning",
    "fold": "onnxprune.folding",
    "inspect": "onnxprune.inspection",
    "load_plan": "onnxprune.plan",
    "sensitivity": "onnxprune.curves",
    "sweep": "onnxprune.sweeping.run",
    "to_torch": "onnxprune.torch_twin",
}

for _link in ("passes", "calibration"):
    if (Path(__file__).parent / _link).is_file():
        raise ImportError(
            f"onnxprune/{_link} should be a symbolic link to ../{_link}, but was checked out as a text file: run "
            "`git config core.symlinks true` and check out again, or install onnxprune with pip"
        )

__all__ = [
    "BadInput",
    "BudgetNotMet",
    "Config",
    "FoldReport",
    "Folded",
    "OnnxPruneError",
    "Plan",
    "ProofFailed",
    "Report",
    "Result",
    "Sensitivity",
    "__version__",
    "apply_plan",
    "compress",
    "finetune",
    "fold",
    "inspect",
    "load_plan",
    "sensitivity",
    "sweep",
    "to_torch",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'onnxprune' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
