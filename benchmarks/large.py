"""Models too large or too long to ship, made here, and what a command needs for them: seconds and peak memory.

`make KIND FILE` writes one, `measure COMMAND…` runs any command and prints a row of the table in README.md.
"""

import argparse
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

INPUTS, CLASSES, TOKENS, CHUNK = 1024, 1000, 16, 1 << 22
CHANNELS, SIDE = 16, 4


@dataclass
class Writer:
    """A model under construction; weights go to `data` in chunks as they are drawn, or stay inside without it."""

    data: Path | None = None
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    written: int = 0

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        """Append a node; the name of its first output, those of the others end in `.1`, `.2`."""
        name = f"{kind.lower()}{len(self.nodes)}"
        names = [name, *(f"{name}.{i}" for i in range(1, outputs))]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=f"/{name}", **attributes))
        return name

    def given(self, array: np.ndarray) -> str:
        """A small constant."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int, fan_in: int) -> str:
        """A random weight, He's initialisation."""
        if self.data is None:
            return self.given((self.rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32))
        tensor = TensorProto(name=f"c{len(self.constants)}", data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        size = int(np.prod(shape))
        places = {"location": self.data.name, "offset": str(self.written), "length": str(4 * size)}
        tensor.external_data.extend(onnx.StringStringEntryProto(key=k, value=v) for k, v in places.items())
        with self.data.open("ab") as file:
            for start in range(0, size, CHUNK):
                drawn = self.rng.standard_normal(min(CHUNK, size - start), np.float32)
                (drawn * np.float32(np.sqrt(2 / fan_in))).tofile(file)
        self.written += 4 * size
        self.constants.append(tensor)
        return tensor.name

    def save(self, file: Path, output: str, inputs: tuple[int | str, ...], outputs: tuple[int | str, ...]) -> None:
        made = [helper.make_tensor_value_info("x", TensorProto.FLOAT, inputs)]
        self.nodes.append(helper.make_node("Identity", [output], ["y"], name="/y"))
        result = [helper.make_tensor_value_info("y", TensorProto.FLOAT, outputs)]
        graph = helper.make_graph(self.nodes, file.stem, made, result, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        file.write_bytes(model.SerializeToString())


def mlp(file: Path, size: float, width: int) -> None:
    """Gemm and Relu, all as wide as each other."""
    w = Writer(_fresh(file))
    x, before = "x", INPUTS
    while w.written < size - 2 * width * width:
        x = w.op("Relu", w.op("Gemm", x, w.weight(width, before, fan_in=before), transB=1))
        before = width
    x = w.op("Gemm", x, w.weight(CLASSES, before, fan_in=before), transB=1)
    w.save(file, x, ("batch", INPUTS), ("batch", CLASSES))


def transformer(file: Path, size: float, width: int) -> None:
    """A residual stream with the feed-forward blocks of a transformer: LayerNorm, MatMul, Gelu, MatMul."""
    w = Writer(_fresh(file))
    ones, zeros = w.given(np.ones(width, np.float32)), w.given(np.zeros(width, np.float32))
    half, one, root = (w.given(np.float32(v)) for v in (0.5, 1.0, np.sqrt(2)))
    x = w.op("MatMul", "x", w.weight(INPUTS, width, fan_in=INPUTS))
    while w.written < size - 16 * width * width:
        h = w.op("MatMul", w.op("LayerNormalization", x, ones, zeros), w.weight(width, 4 * width, fan_in=width))
        h = w.op("Add", h, w.given(w.rng.standard_normal(4 * width).astype(np.float32) / 4))
        gate = w.op("Mul", w.op("Add", w.op("Erf", w.op("Div", h, root)), one), half)
        x = w.op("Add", x, w.op("MatMul", w.op("Mul", h, gate), w.weight(4 * width, width, fan_in=4 * width)))
    x = w.op("MatMul", w.op("LayerNormalization", x, ones, zeros), w.weight(width, CLASSES, fan_in=width))
    w.save(file, x, ("batch", TOKENS, INPUTS), ("batch", TOKENS, CLASSES))


def _fresh(file: Path) -> Path:
    data = file.with_suffix(".data")
    data.unlink(missing_ok=True)
    return data


def chain(block: Callable[[Writer, str], str]) -> Callable[[Path, int], None]:
    """So many nodes of one kind of block behind each other, between two convolutions."""

    def make(file: Path, nodes: int) -> None:
        w = Writer()
        x = _conv(w, "x", 3, CHANNELS)
        while len(w.nodes) < nodes - 2:
            x = block(w, x)
        w.save(file, _conv(w, x, CHANNELS, 3), ("batch", 3, SIDE, SIDE), ("batch", 3, SIDE, SIDE))

    return make


def _conv(w: Writer, x: str, before: int, after: int) -> str:
    return w.op("Conv", x, w.weight(after, before, 1, 1, fan_in=before))


def _residual(w: Writer, x: str) -> str:
    inside = w.op("Relu", _conv(w, x, CHANNELS, CHANNELS))
    scaled = w.op("Mul", _conv(w, inside, CHANNELS, CHANNELS), w.given(np.float32(0.01)))
    return w.op("Add", x, scaled)


def _joined(w: Writer, x: str) -> str:
    """Split, Concat, and a shuffle of channels by Reshape and Transpose."""
    quarter, half = CHANNELS // 4, CHANNELS // 2
    first = w.op("Split", x, w.given(np.array([quarter, CHANNELS - quarter])), outputs=2, axis=1)
    beside = w.op("Relu", _conv(w, f"{first}.1", CHANNELS - quarter, CHANNELS - quarter))
    x = w.op("Concat", first, beside, axis=1)
    x = w.op("Reshape", x, w.given(np.array([0, 2, half, SIDE, SIDE])))
    x = w.op("Transpose", x, perm=[0, 2, 1, 3, 4])
    x = w.op("Reshape", x, w.given(np.array([0, CHANNELS, SIDE, SIDE])))
    return w.op("Relu", _conv(w, x, CHANNELS, CHANNELS))


def _computed(w: Writer, x: str) -> str:
    """A Reshape there and back, each to a shape that is computed: Shape, Gather, Unsqueeze, Concat."""
    x = w.op("Relu", _conv(w, x, CHANNELS, CHANNELS))
    sizes = w.op("Shape", x)
    batch, channels = (_picked(w, sizes, i) for i in (0, 1))
    flat = w.op("Concat", batch, channels, w.given(np.array([-1])), axis=0)
    pixels = w.op("Relu", w.op("Reshape", x, flat))
    sides = w.given(np.array([SIDE, SIDE]))
    return w.op("Reshape", pixels, w.op("Concat", batch, channels, sides, axis=0))


def _picked(w: Writer, sizes: str, index: int) -> str:
    return w.op("Unsqueeze", w.op("Gather", sizes, w.given(np.array(index))), w.given(np.array([0])))


LARGE = {"mlp": (mlp, 8192), "transformer": (transformer, 2048)}
LONG = {"residual": chain(_residual), "joined": chain(_joined), "computed": chain(_computed)}


def measured(command: list[str]) -> tuple[float, float, int, int]:
    """Wall clock and processor time of a command, the most memory it had resident, mapped files too; its exit code."""
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, os.waitstatus_to_exitcode(status)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    tasks = parser.add_subparsers(dest="task", required=True)
    make = tasks.add_parser("make", help="write a model")
    make.add_argument("kind", choices=[*LARGE, *LONG])
    make.add_argument("file", type=Path)
    make.add_argument("--gigabytes", type=float, default=2.5, help="of weights: mlp, transformer")
    make.add_argument("--width", type=int, help="of the layers: mlp, transformer")
    make.add_argument("--nodes", type=int, default=20_000, help="residual, joined, computed")
    measure = tasks.add_parser("measure", help="run a command")
    measure.add_argument("command", nargs=argparse.REMAINDER)
    return parser.parse_args()


def main() -> None:
    options = _options()
    if options.task == "measure":
        seconds, busy, peak, code = measured(options.command)
        told = f"{seconds:.1f} s | {busy:.1f} s | {peak / 1e6:.0f} MB | exit code {code}"
        print(f"| `{' '.join(options.command)}` | {told} |")
    elif options.kind in LARGE:
        write, width = LARGE[options.kind]
        write(options.file, options.gigabytes * 1e9, options.width or width)
    else:
        LONG[options.kind](options.file, options.nodes)


if __name__ == "__main__":
    main()
