"""Prune and fine-tune: onnxprune without labels against every criterion of Torch-Pruning with them; prints Markdown.

python benchmarks/versus_torch_pruning.py --train cifar10.npz --test cifar10.npz --skip 2000

Both get the same images, epochs and batch size. Torch-Pruning's models keep their BatchNormalization and train in torch
with cross-entropy, a ramp and half a cosine, as onnxprune's do. Of its criteria the table shows those that end best on
the test images.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import contenders
import figures
import numpy as np
import onnx
import torch
from compare import MEAN, STD
from contenders import Task
from finetune import arrays
from resnet20 import to_onnx
from torch import nn

import onnxprune

EXAMPLES = Path(__file__).parents[1] / "examples"
RATE = 0.01
"""Chosen on 4,000 other training images (L1, one ranking, 0.5): 86.6%, with 0.003 85.4, 0.03 85.7, AdamW 1e-3 86.2."""
WARMUP = 0.1


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    reached: float
    before: float
    after: float
    seconds: float


def main() -> None:
    options = _options()
    model = onnx.load(options.model)
    train, test = arrays(options.train, "xtr", "ytr"), arrays(options.test, "xte", "yte")
    images, classes = _images(train["x"][: options.count]), train["y"][: options.count].astype(np.int64)
    judges = (_images(test["x"][options.skip :]), test["y"][options.skip :].astype(np.int64))
    whole = figures.accuracy(model, *judges)
    print(f"{options.model.name}: {whole:.2%} on {len(judges[0])} test images; {len(images)} training images, ")
    print(f"{options.epochs} epochs in batches of {options.batch}\n")
    print("| multiply–adds asked | | reached | pruned | fine-tuned | seconds |\n|--:|---|--:|--:|--:|--:|")
    for share in options.macs:
        task = Task(model, images, share, classes)
        ours, theirs = (list(_told(rows(task, judges, options))) for rows in (_ours, _theirs))
        for row in (*ours, *sorted(theirs, key=lambda row: -row.after)[: options.best]):
            print(
                f"| {share} | {row.name} | {row.reached:.3f} | {row.before:.2%} | {row.after:.2%} | {row.seconds:.0f} |"
            )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=EXAMPLES / "resnet20-cifar10.onnx")
    parser.add_argument("--train", type=Path, required=True, help=".npz with x and y, or xtr and ytr")
    parser.add_argument("--test", type=Path, required=True, help=".npz with x and y, or xte and yte")
    parser.add_argument("--count", type=int, default=8192, help="training images: the first of the file")
    parser.add_argument("--skip", type=int, default=0, help="test images to leave out: the first of the file")
    parser.add_argument("--macs", type=float, nargs="+", default=[0.5, 0.35])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--best", type=int, default=5, help="show so many of Torch-Pruning's variants")
    parser.add_argument("--criteria", nargs="+", default=list(contenders.IMPORTANCES))
    return parser.parse_args()


def _images(pixels: np.ndarray) -> np.ndarray:
    return (pixels.astype(np.float32) / 255 - MEAN) / STD


def _ours(task: Task, judges: tuple[np.ndarray, np.ndarray], options: argparse.Namespace) -> Iterator[Row]:
    for align, conv in itertools.product(("auto", 1), (None, "auto")):
        start = time.perf_counter()
        common = {"calib": task.images, "macs": task.share, "align": align, "conv": conv, "measure": False}
        pruned = onnxprune.compress(task.model, **common)
        tuned = onnxprune.compress(task.model, **common, finetune=options.epochs, train_batch=options.batch)
        yield Row(
            f"onnxprune, no labels, `--align {align}`" + (", `--conv auto`" if conv else ""),
            figures.macs(tuned.model) / figures.macs(task.model),
            figures.accuracy(pruned.model, *judges),
            figures.accuracy(tuned.model, *judges),
            time.perf_counter() - start,
        )


def _theirs(task: Task, judges: tuple[np.ndarray, np.ndarray], options: argparse.Namespace) -> Iterator[Row]:
    for criterion, spread in itertools.product(options.criteria, (False, True)):
        start = time.perf_counter()
        module = contenders.torch_pruned(task, criterion, spread, False)
        pruned = to_onnx(module)
        tuned = to_onnx(_trained(module, task, options))
        yield Row(
            f"Torch-Pruning 1.6.1, {criterion}, {'one ranking' if spread else 'one ratio'}",
            figures.macs(tuned) / figures.macs(task.model),
            figures.accuracy(pruned, *judges),
            figures.accuracy(tuned, *judges),
            time.perf_counter() - start,
        )


def _trained(module: nn.Module, task: Task, options: argparse.Namespace) -> nn.Module:
    torch.manual_seed(0)
    images, classes = torch.from_numpy(task.images), torch.from_numpy(task.classes)
    weights = module.parameters()
    stepper = torch.optim.SGD(weights, lr=RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = options.epochs * (len(images) // options.batch)
    rising = WARMUP * steps

    def rate(step: int) -> float:
        return (step + 1) / rising if step < rising else 0.5 * (1 + np.cos(np.pi * (step - rising) / (steps - rising)))

    schedule = torch.optim.lr_scheduler.LambdaLR(stepper, rate)
    module = module.train().to(memory_format=torch.channels_last)
    for _ in range(options.epochs):
        order = torch.randperm(len(images))
        for rows in order[: len(images) // options.batch * options.batch].split(options.batch):
            batch = images[rows].contiguous(memory_format=torch.channels_last)
            stepper.zero_grad()
            nn.functional.cross_entropy(module(batch), classes[rows]).backward()
            stepper.step()
            schedule.step()
    return module.eval()


def _told(rows: Iterator[Row]) -> Iterator[Row]:
    """The rows, each on the standard error when it is there."""
    for row in rows:
        print(row, file=sys.stderr, flush=True)
        yield row


if __name__ == "__main__":
    main()
