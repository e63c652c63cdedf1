"""Export of the small torch networks to ONNX by both exporters of torch, kept between test runs.

The dynamo exporter needs one to three seconds a network, so the files are worth keeping.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from topologies_torch import BATCHNORM_KEPT, NETWORKS, randomise_norms

torch = pytest.importorskip("torch")


def cached_export(name: str, dynamo: bool) -> onnx.ModelProto:
    """Like `export`, read from .pytest_cache when the networks and the exporters are those of an earlier run."""
    tests = Path(__file__).parent
    key = hashlib.sha256()
    for source in ("torch_blocks.py", "topologies_torch.py", "topologies_export.py"):
        key.update((tests / source).read_bytes())
    for package in ("torch", "onnx", "onnxscript"):
        key.update(importlib.metadata.version(package).encode())
    folder = tests.parent / ".pytest_cache" / "topologies" / key.hexdigest()[:16]
    path = folder / f"{name}-{'dynamo' if dynamo else 'torchscript'}.onnx"
    if path.exists():
        return onnx.load(path)
    model = export(name, dynamo)
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(model.SerializeToString())
        partial.replace(path)
    return model


def export(name: str, dynamo: bool) -> onnx.ModelProto:
    """One network as ONNX with a dynamic batch: opset 18 from dynamo, 17 from TorchScript (input `x`, output `y`)."""
    build, shape = NETWORKS[name]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(sum(map(ord, name)))
        network = build().eval()
        randomise_norms(network)
        sample = torch.randn(2, *shape)
    with _silence():
        if dynamo:
            shapes = ({0: torch.export.Dim("batch")},)
            return torch.onnx.export(
                network, (sample,), dynamo=True, opset_version=18, dynamic_shapes=shapes
            ).model_proto
        return _export_torchscript(network, sample, name in BATCHNORM_KEPT)


def _export_torchscript(network: torch.nn.Module, sample: torch.Tensor, keep_batchnorm: bool) -> onnx.ModelProto:
    buffer = io.BytesIO()
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "batch"}, "y": {0: "batch"}}}
    mode = torch.onnx.TrainingMode.PRESERVE if keep_batchnorm else torch.onnx.TrainingMode.EVAL
    torch.onnx.export(network, (sample,), buffer, dynamo=False, opset_version=17, training=mode, **names)
    return onnx.load_from_string(buffer.getvalue())


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(io.StringIO()):
                yield
    finally:
        logging.disable(previous)
