"""Accuracy that each method keeps without fine-tuning, over several draws of calibration images; prints Markdown."""

import argparse
import time
from pathlib import Path
from typing import Any

import figures
import numpy as np
import onnx

import onnxprune

EXAMPLES = Path(__file__).parents[1] / "examples"
SCALING = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}


def main() -> None:
    options = _options()
    model = onnx.load(options.model)
    drawn = np.load(options.calib)["x"]
    test = np.load(options.test)
    images, classes = _scaled(test["x"][options.skip :]), test["y"][options.skip :].astype(np.int64)
    print(f"{options.model.name}: {figures.accuracy(model, images, classes):.2%} on {len(images)} test images\n")
    print(
        "| method | multiply–adds asked | reached | accuracy, mean | each draw | seconds |\n|---|--:|--:|--:|---|--:|"
    )
    for method in options.methods:
        for macs in options.macs:
            print(_row(model, method, macs, drawn, (images, classes), options), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=EXAMPLES / "resnet20-cifar10.onnx")
    parser.add_argument("--calib", type=Path, default=EXAMPLES / "calibration.npz", help=".npz with x, uint8")
    parser.add_argument("--test", type=Path, default=EXAMPLES / "test.npz", help=".npz with x, uint8, and y")
    parser.add_argument("--skip", type=int, default=0, help="leave the first N test images out")
    parser.add_argument("--methods", nargs="+", default=["obs", "thinet", "lasso", "magnitude"])
    parser.add_argument("--macs", type=float, nargs="+", default=[0.5])
    parser.add_argument("--rebuild", choices=["lsq", "scale", "none"], default="lsq")
    parser.add_argument("--samples", type=int, default=512, help="calibration images a draw")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--synthetic", action="store_true", help="made-up images instead of those of --calib")
    return parser.parse_args()


def _row(model: Any, method: str, macs: float, drawn: Any, test: Any, options: argparse.Namespace) -> str:
    found, reached, start = [], [], time.perf_counter()
    for seed in range(options.draws):
        rows = np.random.default_rng(seed).choice(len(drawn), min(options.samples, len(drawn)), replace=False)
        calib = None if options.synthetic else {model.graph.input[0].name: _scaled(drawn[rows])}
        asked = {"method": method, "macs": macs, "seed": seed, "samples": None if calib else options.samples}
        result = onnxprune.compress(model, calib=calib, measure=False, rebuild=options.rebuild, **asked)
        reached.append(result.report.after.macs / result.report.before.macs)
        found.append(figures.accuracy(result.model, *test))
    seconds = (time.perf_counter() - start) / options.draws
    each = ", ".join(f"{a:.2%}" for a in found)
    return f"| {method} | {macs} | {np.mean(reached):.3f} | {np.mean(found):.2%} | {each} | {seconds:.1f} |"


def _scaled(images: Any) -> Any:
    mean, std = (np.array(SCALING[name], np.float32)[:, None, None] for name in ("mean", "std"))
    return ((images / np.float32(255) - mean) / std).astype(np.float32)


if __name__ == "__main__":
    main()
