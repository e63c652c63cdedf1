"""Prune, then learn from the original without labels: accuracy before and after, as `onnxprune --finetune` gives it.

python benchmarks/finetune.py --model resnet20-cifar10.onnx --train train.npz --test cifar10-test.npz --skip 2000
"""

import argparse
import time
from pathlib import Path

import numpy as np

import onnxprune

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def arrays(path: Path, images: str, labels: str) -> dict[str, np.ndarray]:
    """Images and labels of an archive that calls them x and y, or xtr, ytr, xte and yte."""
    with np.load(path) as held:
        return {"x": held[images if images in held else "x"], "y": held[labels if labels in held else "y"]}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--train", type=Path, required=True, help="images to prune and to learn with")
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--count", type=int, default=8192, help="training images: the first of the file")
    parser.add_argument("--skip", type=int, default=0, help="test images to leave out: the first of the file")
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--align", default="auto")
    parser.add_argument("--method", default="obs")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--labels", action="store_true", help="learn from labels (ce), not from the original")
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="any other option")
    return parser.parse_args()


def main() -> None:
    args = parsed()
    train, test = arrays(args.train, "xtr", "ytr"), arrays(args.test, "xte", "yte")
    train = {name: array[: args.count] for name, array in train.items()}
    judged = {name: array[args.skip :] for name, array in test.items()}
    more = dict(pair.split("=", 1) for pair in args.set)
    np.savez("finetune-test.npz", **judged)
    common = {"calib": train["x"], "eval": "finetune-test.npz", "macs": args.macs, "align": args.align,
              "method": args.method, "mean": MEAN, "std": STD, "measure": False}  # fmt: skip
    for epochs in (None, args.epochs):
        begun = time.perf_counter()
        tuning = {"finetune": epochs, "train": train if args.labels else train["x"], **more} if epochs else {}
        tuning |= {"loss": "ce"} if epochs and args.labels else {}
        report = onnxprune.compress(args.model, **common, **tuning).report
        assert report.accuracy is not None
        spent = time.perf_counter() - begun
        print(
            f"{epochs or 0} epochs: {report.accuracy.before:.2%} -> {report.accuracy.after:.2%}, "
            f"{report.after.macs / report.before.macs:.3f} of the multiply–adds, {spent:.0f} s",
            flush=True,
        )
        for one in report.rounds:
            judged = one.tuned.epochs[-1].model_dump_json(exclude_none=True) if one.tuned is not None else ""
            print(f"  round {one.name}: {one.macs:.3f} of the multiply–adds, {judged}", flush=True)
        for epoch in report.tuned.epochs if report.tuned is not None else ():
            print(f"  {epoch.model_dump_json(exclude_none=True)}", flush=True)
    Path("finetune-test.npz").unlink()


if __name__ == "__main__":
    main()
