"""A small network prepared as a run does it, all of its rows in use, and layers seen by numpy alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import onnx
import onnx_ir as ir
from graph_text import Weights, model_from_text

from onnxprune.calibration.collect import Collected, collect
from onnxprune.calibration.rows import Positions, position_count
from onnxprune.calibration.sampling import Sampling
from onnxprune.dependency import Analysis, Keep, analyse
from onnxprune.labels import Shape
from onnxprune.layers import Layer, layers_in_order
from onnxprune.model_io import load
from onnxprune.op_rules.facts import Linear
from onnxprune.passes.add_bias import add_bias
from onnxprune.passes.fold_batchnorm import fold_batchnorm
from onnxprune.passes.normalise import normalise
from onnxprune.passes.remove import remove
from onnxprune.rebuild import Rebuilt, rebuild
from onnxprune.trace import trace

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, eq=False)
class Batches:
    """A calibration source: the feeds as given."""

    feeds: Sequence[dict[str, np.ndarray]]
    synthetic: bool = False
    description: str = "arrays"

    @property
    def samples(self) -> int:
        return sum(len(next(iter(feeds.values()))) for feeds in self.feeds)

    def batches(self) -> Iterator[dict[str, np.ndarray]]:
        return (dict(feeds) for feeds in self.feeds)


@dataclass(frozen=True)
class EveryRow(Sampling):
    """No row is left out."""

    def rows(self, linear: Linear) -> float:
        return self._all(linear)

    def step_to_choose(self, linear: Linear) -> int:
        return 1

    def used(self, linear: Linear) -> int:
        return self.batches

    def positions(self, linear: Linear, input_shape: Shape, batch: int) -> Positions:
        return np.arange(position_count(linear, input_shape))


@dataclass(frozen=True, eq=False)
class Net:
    """An analysed network with its data."""

    analysis: Analysis
    layers: list[Layer]
    wave: dict[str, int]
    source: Batches
    sampling: Sampling

    @property
    def proto(self) -> onnx.ModelProto:
        return ir.to_proto(self.analysis.model)

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """All batches in one."""
        parts = list(self.source.batches())
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def layer(self, name: str) -> Layer:
        return next(layer for layer in self.layers if layer.name == name)

    def collect(self, *measured: str) -> Collected:
        names = frozenset(measured) or frozenset(layer.name for layer in self.layers)
        return collect(self.analysis.model, self.layers, names, self.source, self.sampling)

    def rebuild(self, keep: Keep, mode: str = "lsq") -> tuple[onnx.ModelProto, onnx.ModelProto, list[Rebuilt]]:
        """(the slim model as cut, the one solved again, what was solved)."""
        slim = remove(self.analysis, keep)
        before, collected = ir.to_proto(slim), self.collect()
        args = (self.analysis, slim, keep, self.layers, self.wave, collected, self.source, self.sampling)
        found = rebuild(*args, mode)  # type: ignore[arg-type]
        return before, ir.to_proto(found.model), found.solved


def net(
    signature: str, body: str, weights: Weights, inputs: dict[str, np.ndarray], batch: int = 16, opset: int = 17
) -> Net:
    """Parse, fold, give biases, trace and analyse; `inputs` are cut into batches."""
    return net_of(model_from_text(signature, body, weights, opset), inputs, batch)


def net_of(model: onnx.ModelProto, inputs: dict[str, np.ndarray], batch: int = 16) -> Net:
    normal = normalise(load(model).model)
    names = [node.name or "" for node in normal.graph if node.op_type in LAYERS]
    normal = add_bias(fold_batchnorm(normal, names), names)
    count = len(next(iter(inputs.values())))
    parts = [{n: a[i : i + batch] for n, a in inputs.items()} for i in range(0, count, batch)]
    analysis = analyse(normal, trace(normal, {name: array[:2] for name, array in inputs.items()}))
    layers, wave = layers_in_order(analysis)
    sampling = EveryRow(count, len(parts), len(layers), analysis.trace, 0)
    return Net(analysis, layers, wave, Batches(parts), sampling)


def im2col(
    x: np.ndarray, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]
) -> np.ndarray:
    """(B · out…, C · taps): the windows of a convolution, by plain loops over the taps."""
    rank = x.ndim - 2
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    outs = [(n - w) // s + 1 for n, w, s in zip(padded.shape[2:], spans, strides, strict=True)]
    taps = []
    for tap in product(*(range(k) for k in kernel)):
        ends = zip(tap, dilations, outs, strides, strict=True)
        window = tuple(slice(t * d, t * d + (o - 1) * s + 1, s) for t, d, o, s in ends)
        taps.append(padded[(..., *window)])
    return np.moveaxis(np.stack(taps, 2), (1, 2), (-2, -1)).reshape(-1, x.shape[1] * len(taps))


def ridge(x: np.ndarray, y: np.ndarray, prior: np.ndarray, rho: float) -> tuple[np.ndarray, np.ndarray]:
    """(weight (n, F), bias (n,)): min E‖y − Wx − b‖² + ρ·mean Var(x)·‖W − prior‖², by one dense least squares."""
    x, y, prior = x.astype(np.float64), y.astype(np.float64), prior.astype(np.float64)
    xc, yc = x - x.mean(0), y - y.mean(0)
    pull = np.sqrt(rho * xc.var(0).mean() * len(x)) * np.eye(x.shape[1])
    weight = np.linalg.lstsq(np.concatenate([xc, pull]), np.concatenate([yc, pull @ prior.T]), rcond=None)[0].T
    return weight, y.mean(0) - weight @ x.mean(0)


def channels_last(y: np.ndarray) -> np.ndarray:
    """(positions, channels) of an activation (B, C, …)."""
    return np.moveaxis(y, 1, -1).reshape(-1, y.shape[1])
