"""onnxprune, Torch-Pruning and onnxsim on one model, one set of images and one budget; prints the table as Markdown."""

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import contenders
import figures
import numpy as np
import onnx
import onnxruntime
from contenders import Task

EXAMPLES = Path(__file__).parents[1] / "examples"
MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32)[:, None, None]
BEGINS, ENDS = "<!-- benchmark begins -->", "<!-- benchmark ends -->"
STD = np.array([0.2470, 0.2435, 0.2616], np.float32)[:, None, None]


@dataclass(frozen=True)
class Row:
    """One line of the table; seconds is the tool's own run, imports aside."""

    tool: str
    variant: str
    model: onnx.ModelProto
    accuracy: float
    seconds: float | None


def main() -> None:
    options = _options()
    model = onnx.load(options.model)
    images = _images(options.calib)[: options.samples]
    test = (_images(options.test), np.load(options.test)["y"].astype(np.int64))
    rows = run(Task(model, images, options.macs), *test)
    table = _table(rows, options.seconds)
    text = f"{_preface(options, len(images), len(test[1]))}\n\n{table}\n"
    print(text)
    for file in options.write:
        _write(file, text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=EXAMPLES / "resnet20-cifar10.onnx")
    parser.add_argument("--calib", type=Path, default=EXAMPLES / "calibration.npz", help=".npz with x, uint8")
    parser.add_argument("--test", type=Path, default=EXAMPLES / "test.npz", help=".npz with x, uint8, and y")
    parser.add_argument("--samples", type=int, help="use the first N calibration images only")
    parser.add_argument("--macs", type=float, default=0.5, help="the share of multiply-adds that may stay")
    parser.add_argument("--seconds", type=float, default=20.0, help="time all models for so long, per batch size")
    parser.add_argument("--write", type=Path, nargs="*", default=[], help="put the table between these files' markers")
    return parser.parse_args()


def _write(file: Path, text: str) -> None:
    before, rest = file.read_text(encoding="utf-8").split(BEGINS)
    after = rest.split(ENDS)[1]
    file.write_text(f"{before}{BEGINS}\n{text}{ENDS}{after}", encoding="utf-8")


def _images(path: Path) -> np.ndarray:
    return (np.load(path)["x"].astype(np.float32) / 255 - MEAN) / STD


def run(task: Task, images: np.ndarray, classes: np.ndarray) -> list[Row]:
    """Let everyone prune; judge each on the labelled images."""

    def judged(tool: str, variant: str, contender: Callable[[Task], onnx.ModelProto]) -> Row:
        start = time.perf_counter()
        model = contender(replace(task, model=onnx.ModelProto.FromString(task.model.SerializeToString())))
        seconds = time.perf_counter() - start
        row = Row(tool, variant, model, figures.accuracy(model, images, classes), seconds)
        print(f"{tool}, {variant}: {row.accuracy:.1%} in {seconds:.1f} s", flush=True)
        return row

    rows = [Row("original", "", task.model, figures.accuracy(task.model, images, classes), None)]
    rows += [judged(*one) for one in contenders.fixed()]
    for batchnorm, name in ((False, "best of 14"), (True, "best of 14, BatchNorm estimated anew")):
        tried = [judged("Torch-Pruning 1.6.1", v, c) for v, c in contenders.torch_pruning_variants(batchnorm)]
        best = max(tried, key=lambda row: row.accuracy)
        rows.append(replace(best, variant=f"{name}: {best.variant}"))
    return sorted(rows, key=lambda row: (row.seconds is not None, row.tool.lower(), -row.accuracy))


def _table(rows: Sequence[Row], seconds: float) -> str:
    models = [row.model for row in rows]
    one, many = (figures.latencies(models, batch, seconds) for batch in (1, 32))
    lines = [
        "| tool | variant | accuracy | multiply–adds | parameters | batch 1 | batch 32 | seconds |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row, first, last in zip(rows, one, many, strict=True):
        took = "" if row.seconds is None else f"{row.seconds:.1f}"
        lines.append(
            f"| {row.tool} | {row.variant} | {row.accuracy:.1%} | {figures.macs(row.model) / 1e6:.1f} M "
            f"| {figures.parameters(row.model) / 1e3:.0f} k | {first.median:.2f} ms ({first.ratio:.2f}×) "
            f"| {last.median:.1f} ms ({last.ratio:.2f}×) | {took} |"
        )
    return "\n".join(lines)


def _preface(options: argparse.Namespace, calibration: int, test: int) -> str:
    runtime = f"onnxruntime {onnxruntime.__version__}, {platform.machine()}, one thread"
    return f"""\
`{options.model.name}` at {options.macs:g} of its multiply–adds, {calibration} unlabelled images, no fine-tuning.
Accuracy on {test:,} labelled test images. Latency: {runtime}, all models in turn;
in brackets how many times as fast as the original. Seconds: the tool's own run, its search for the ratio that meets the
budget included."""


if __name__ == "__main__":
    main()
