"""What is installed here, and which of onnxruntime's providers really start."""

import importlib.metadata
import platform
import sys
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.errors import BadInput
from onnxprune.runtime import import_onnxruntime, open_session, run

_PACKAGES = (
    "onnxprune",
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnx-graphsurgeon",
    "protobuf",
    "scipy",
    "pillow",
    "pydantic",
    "typer",
    "rich",
    "torch",
)
_RUNTIMES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-training",
    "onnxruntime-webgpu",
)


@dataclass(frozen=True)
class Provider:
    """A provider that this onnxruntime was built with; `problem` says why it did not start, and is None if it did."""

    name: str
    problem: str | None


@dataclass(frozen=True)
class Diagnosis:
    """The state of an installation.

    `packages` maps distributions to versions (None: not installed), `runtimes` holds the onnxruntime distributions
    found, `problems` one sentence for each thing to repair; empty when all is well.
    """

    python: str
    platform: str
    packages: dict[str, str | None]
    runtimes: dict[str, str]
    providers: tuple[Provider, ...]
    problems: tuple[str, ...]


def diagnose() -> Diagnosis:
    """Look up what is installed and start each available provider on a tiny model."""
    versions = {name: version for name in _RUNTIMES if (version := _version(name)) is not None}
    problems = [] if len(versions) < 2 else [_over_each_other(versions)]
    providers: tuple[Provider, ...] = ()
    try:
        providers = tuple(_tried(name) for name in import_onnxruntime().get_available_providers())
    except BadInput as error:
        problems.append(str(error))
    problems += [f"{provider.name} does not start: {provider.problem}" for provider in providers if provider.problem]
    return Diagnosis(
        python=f"{platform.python_implementation()} {platform.python_version()} ({sys.executable})",
        platform=platform.platform(),
        packages={name: _version(name) for name in _PACKAGES},
        runtimes=versions,
        providers=providers,
        problems=tuple(problems),
    )


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _over_each_other(versions: dict[str, str]) -> str:
    names = " and ".join(versions)
    return (
        f"{names} are installed over each other: they share one folder and one of them is broken; "
        f"run `pip uninstall {' '.join(versions)}` and install the one you want"
    )


def _tried(provider: str) -> Provider:
    try:
        outputs = run(open_session(_tiny_model(), providers=[provider]), {"x": np.ones(2, np.float32)})
    except BadInput as error:
        return Provider(provider, str(error))
    return Provider(provider, None if np.array_equal(outputs["y"], [2, 2]) else f"1 + 1 is {outputs['y']} there")


def _tiny_model() -> ir.Model:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2]))
    node = ir.node("Add", [x, x])
    y = node.outputs[0]
    y.name, y.type, y.shape = "y", x.type, x.shape
    # IR 8 and opset 17 are read by every onnxruntime that is supported.
    return ir.Model(ir.Graph([x], [y], nodes=[node], opset_imports={"": 17}, name="tiny"), ir_version=8)
