"""Milliseconds of single layers at any widths, measured on the user's runtime: they fall on steps that no count has."""

import hashlib
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import onnx_ir as ir

from onnxprune.cache import folder, read, write
from onnxprune.config import Config
from onnxprune.costs import Float, ProductCost, product_cost
from onnxprune.dependency import Analysis
from onnxprune.graph import Array
from onnxprune.op_rules.facts import Linear
from onnxprune.runtime import CPU, import_onnxruntime, open_session, run

OPERATORS = ("Conv", "Gemm", "MatMul")
WARM, FEWEST, MOST, LEAST_SECONDS = 2, 5, 40, 0.005
"""Runs before the clock starts; runs that count, at least and at most; the time that is enough in between."""
Clock = Callable[[ir.Model, Mapping[str, Array], Config], float]
"""(a model, its inputs, options) → milliseconds of a run."""


def milliseconds(model: ir.Model, feeds: Mapping[str, Array], config: Config) -> float:
    """The median of some runs."""
    session = open_session(model, threads=config.threads, providers=config.providers or None, timed=True)
    spent: list[float] = []
    for number in range(WARM + MOST):
        begun = time.perf_counter()
        run(session, feeds)
        spent += [time.perf_counter() - begun] * (number >= WARM)
        if len(spent) >= FEWEST and sum(spent) > LEAST_SECONDS:
            break
    return 1e3 * median(spent)


@dataclass(eq=False)
class LayerTimes:
    """The summed time of plain layers, as a function of the widths (…, groups); each shape is measured once.

    Measurements are kept in the user's cache folder, by processor, runtime, provider and threads.
    """

    linears: Sequence[Linear]
    shapes: Sequence[tuple[int, ...]]
    cost: ProductCost
    config: Config
    clock: Clock = milliseconds
    known: dict[tuple[int, int, int], float] = field(default_factory=dict)

    def __call__(self, widths: Array) -> Float:
        """(…,) milliseconds."""
        columns, rows = (np.rint(part).astype(np.int64) for part in self.cost.sizes(widths))
        total = np.zeros(widths.shape[:-1])
        for at in np.ndindex(total.shape):
            pairs = zip(columns[at].tolist(), rows[at].tolist(), strict=True)
            total[at] = sum(self._of(layer, *pair) for layer, pair in enumerate(pairs))
        return total

    def _of(self, layer: int, columns: int, rows: int) -> float:
        key = (layer, columns, rows)
        if key not in self.known:
            self.known[key] = self._measured(*key)
        return self.known[key]

    def _measured(self, layer: int, columns: int, rows: int) -> float:
        model, feeds = single(self.linears[layer], self.shapes[layer], columns, rows)
        path = folder() / "times" / f"{self._address(layer, columns, rows)}.npz"
        held = read(path)
        if held is not None and "milliseconds" in held:
            return float(held["milliseconds"])
        found = self.clock(model, feeds, self.config)
        write(path, {"milliseconds": np.array(found)})
        return found

    def _address(self, layer: int, columns: int, rows: int) -> str:
        node = self.linears[layer].node
        attributes = sorted(f"{name}={value.value}" for name, value in node.attributes.items())
        machine = (processor(), import_onnxruntime().__version__, self.config.providers or (CPU,), self.config.threads)
        told = (*machine, node.op_type, attributes, self.shapes[layer], self.linears[layer].kernel, columns, rows)
        return hashlib.sha256(repr(told).encode()).hexdigest()[:32]


def layer_times(analysis: Analysis, config: Config, clock: Clock = milliseconds) -> LayerTimes:
    """Of the convolutions, Gemms and MatMuls in one block; what other operators take is not counted."""
    plain = [x for x in analysis.linears if x.groups == 1 and x.node.op_type in OPERATORS and x.kind != "left_matmul"]
    plain = [x for x in plain if x.node.domain in ("", "ai.onnx") and x.node not in analysis.idle]
    shapes = [analysis.trace.shape(linear.x) for linear in plain]
    return LayerTimes(plain, shapes, product_cost(analysis, plain), config, clock)


def single(linear: Linear, shape: tuple[int, ...], columns: int, rows: int) -> tuple[ir.Model, dict[str, Array]]:
    """A model of one layer with so many columns and rows in its weight, and an input for it."""
    node, taps = linear.node, int(np.prod(linear.kernel)) if linear.kind == "conv" else 1
    inner, outer = max(1, columns // taps), max(1, rows)
    flags = {name: bool(node.attributes[name].as_int()) for name in ("transA", "transB") if name in node.attributes}
    axis = 1 if linear.kind == "conv" else 0 if flags.get("transA") else len(shape) - 1
    given = tuple(inner if i == axis else size for i, size in enumerate(shape))
    matrix = (outer, inner, *linear.kernel) if linear.kind == "conv" or flags.get("transB") else (inner, outer)
    rng = np.random.default_rng(0)
    x = ir.Input("x", shape=ir.Shape(given), type=ir.TensorType(ir.DataType.FLOAT))
    weight = ir.Value(name="w", const_value=ir.tensor(rng.standard_normal(matrix).astype(np.float32), name="w"))
    made = ir.Node("", node.op_type, [x, weight], list(node.attributes.values()), num_outputs=1)
    y = made.outputs[0]
    y.name, y.type = "y", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], [y], nodes=[made], initializers=[weight], opset_imports={"": 17}, name="layer")
    return ir.Model(graph, ir_version=8), {"x": rng.standard_normal(given).astype(np.float32)}


def processor() -> str:
    """What the processor calls itself."""
    listed = Path("/proc/cpuinfo")
    if listed.is_file():
        names = [line for line in listed.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        if names:
            return names[0].partition(":")[2].strip()
    return platform.processor() or platform.machine()
