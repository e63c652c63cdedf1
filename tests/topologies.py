"""The small networks that the tests prune: written as ONNX text, and exported from torch where that is installed."""

import functools
import importlib.util
from collections.abc import Callable, Mapping

import numpy as np
import onnx
from topologies_converters import CONVERTER_TOPOLOGIES
from topologies_text import TEXT_TOPOLOGIES

FREE_SIZE = 16


def feeds(model: onnx.ModelProto, seed: int = 0, batch: int = 2) -> dict[str, np.ndarray]:
    """Standard normal inputs by name; the first axis is the batch, every other open axis is 16 wide."""
    rng = np.random.default_rng(seed)
    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initializers]
    return {value.name: rng.standard_normal(_shape(value, batch)).astype(np.float32) for value in inputs}


def _shape(value: onnx.ValueInfoProto, batch: int) -> tuple[int, ...]:
    dims = value.type.tensor_type.shape.dim
    return (batch, *(dim.dim_value if dim.HasField("dim_value") else FREE_SIZE for dim in dims[1:]))


def _once(build: Callable[[], onnx.ModelProto]) -> Callable[[], onnx.ModelProto]:
    """Build once a session, but hand out copies: a test may change what it gets."""
    serialised = functools.cache(lambda: build().SerializeToString())
    return lambda: onnx.load_from_string(serialised())


def _torch_topologies() -> Mapping[str, Callable[[], onnx.ModelProto]]:
    if importlib.util.find_spec("torch") is None:
        return {}
    from topologies_export import cached_export
    from topologies_torch import NETWORKS

    exporters = {"torchscript": False, "dynamo": True}
    return {
        f"{name}-{exporter}": functools.partial(cached_export, name, dynamo)
        for name in NETWORKS
        for exporter, dynamo in exporters.items()
    }


TOPOLOGIES: dict[str, Callable[[], onnx.ModelProto]] = {
    name: _once(build) for name, build in (TEXT_TOPOLOGIES | CONVERTER_TOPOLOGIES | _torch_topologies()).items()
}
