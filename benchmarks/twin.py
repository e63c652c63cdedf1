"""The torch twin beside onnxruntime on every model of the zoo; with `--speed` beside a hand-written module.

Exit code 1 if a model differs by more than 1e-4 of the largest number of an output, or a training step costs too much.
"""

import argparse
import sys
import time
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
import zoo_inputs
from resnet20 import from_onnx
from zoo_models import ROOT, Entry, entries

import onnxprune
from onnxprune.config import make_config
from onnxprune.model_io import load
from onnxprune.prepare import open_data
from onnxprune.runtime import open_session, run

TOLERANCE, SLOWER = 1e-4, 1.25
BATCH, THREADS, STEPS = 256, 2, 7
EXCEPTED = {
    "ddddocr/common_old": "every layer rounds to quanta anew: a last bit of a Sigmoid moves some of them to the next",
}
"""Models that may differ (by glob), and why."""


def main() -> int:
    options = _options()
    torch.manual_seed(0)
    return speed(options.model) if options.speed else zoo(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speed", action="store_true", help="time a training step instead")
    parser.add_argument("--model", type=Path, default=ROOT / "examples/resnet20-cifar10.onnx", help="the ResNet-20")
    parser.add_argument("--light", action="store_true", help="the small half alone: models of up to 7 MB")
    parser.add_argument("--only", metavar="GLOB", default="*", help="models whose name fits, as silero-vad/*")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache/zoo", help="where packages are kept")
    parser.add_argument("models", nargs="*", type=Path, help="these files instead of the zoo")
    return parser.parse_args()


def zoo(options: argparse.Namespace) -> int:
    """One row a model: how far the twin is from onnxruntime, on real inputs where there are some."""
    found = [Entry(str(path), path) for path in options.models] or entries(options.cache, options.light)
    failed = 0
    print("| model | inputs | parameters | outside of torch | difference | |\n|---|---|--:|---|--:|---|", flush=True)
    for entry in found:
        if fnmatchcase(entry.name, options.only) and not entry.error:
            row, good = _row(entry, options.cache)
            failed += not good
            print(row, flush=True)
    return int(failed > 0)


def _row(entry: Entry, cache: Path) -> tuple[str, bool]:
    excuse = next((why for glob, why in EXCEPTED.items() if fnmatchcase(entry.name, glob)), "")
    try:
        model = load(entry.path).model
        feeds, kind = _feeds(entry, model, cache)
        twin = onnxprune.to_torch(model)
        difference = _difference(twin, model, feeds)
    except Exception as error:
        return f"| {entry.name} | | | | | {excuse or f'{type(error).__name__}: {error}'} |", bool(excuse)
    outside = ", ".join(sorted(_outside()))
    count = len(list(twin.parameters()))
    return f"| {entry.name} | {kind} | {count} | {outside} | {difference:.1e} | {excuse} |", (
        difference <= TOLERANCE or bool(excuse)
    )


def _outside() -> set[str]:
    """What the last twin did not compute in torch."""
    from onnxprune.torch_twin import fallback

    names = set(fallback._told)
    fallback._told.clear()
    return names


def _feeds(entry: Entry, model: ir.Model, cache: Path) -> tuple[Mapping[str, Any], str]:
    try:
        real = zoo_inputs.real_inputs(entry.name, entry.path, cache, 1)
    except zoo_inputs.Missing:
        real = None
    shapes = zoo_inputs.shapes(entry.name)
    if real is not None:
        return next(zoo_inputs.one_by_one(onnx.load(entry.path), real, shapes)), "real"
    data = open_data(model, None, make_config(samples=2, input_shape=shapes), matched=False)
    return dict(data.sample), "made up"


def _difference(twin: Any, model: ir.Model, feeds: Mapping[str, Any]) -> float:
    """The largest over the outputs, as a share of the largest number of an output."""
    expected = run(open_session(model, threads=THREADS), feeds)
    with torch.no_grad():
        found = twin(**{name: torch.from_numpy(np.array(array)) for name, array in feeds.items()})
    worst = 0.0
    for name, wanted in expected.items():
        got = found[name].numpy()
        if (got.shape, got.dtype) != (wanted.shape, wanted.dtype):
            raise ValueError(f"{name} is {got.dtype}{got.shape}, not {wanted.dtype}{wanted.shape}")
        if wanted.size:
            wide = wanted.astype(np.float64)
            worst = max(worst, float(np.abs(got - wide).max() / max(np.abs(wide).max(), 1e-30)))
    return worst


def speed(path: Path) -> int:
    """Seconds of a training step of the twin and of the hand-written module, turn by turn in one process."""
    torch.set_num_threads(THREADS)
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))
    twin, module = onnxprune.to_torch(path), from_onnx(onnx.load(path))
    steps = [_step(twin, lambda x: twin(x)["logits"]), _step(module, module)]
    seconds: list[list[float]] = [[], []]
    for turn in range(STEPS + 1):
        for step, row in zip(steps, seconds, strict=True):
            start = time.perf_counter()
            step(images, labels)
            row += [time.perf_counter() - start] * (turn > 0)  # the first one warms up
    ours, theirs = (median(row) for row in seconds)
    print("| training step, batch 256, 2 threads | seconds |\n|---|--:|")
    print(f"| twin | {ours:.3f} |\n| hand-written module | {theirs:.3f} |\n| twin / module | {ours / theirs:.2f} |")
    return int(ours > SLOWER * theirs)


def _step(module: torch.nn.Module, logits: Any) -> Any:
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=1e-4, momentum=0.9)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits(images), labels).backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    sys.exit(main())
