"""Accuracy of each low-rank method at each rank, as `onnxprune --method none --fc METHOD --rank K` gives it: a table.

python benchmarks/low_rank.py --model vgg8fc-cifar10.onnx --calib cifar10-calibration.npz --test cifar10-test.npz \
    --only '*classifier.0*' --only '*classifier.3*'
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

import onnxprune

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
METHODS = ("svd", "lrd", "response", "as", "ger-ic", "ger")
SHORT = {"svd": {"fc": "lrd", "rebuild": "none"}, "ger-ic": {"fc": "ger", "init": "svd"}}
"""svd: no layer is solved again; ger-ic: ger from singular vectors."""


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--calib", required=True, help="unlabelled images")
    parser.add_argument("--test", type=Path, required=True, help="labelled images (x, y)")
    parser.add_argument("--skip", type=int, default=0, help="test images to leave out: the first of the file")
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--only", action="append", help="the layers; repeatable")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--ranks", default="16,8,4")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="any other option")
    return parser.parse_args()


def accuracy(args: argparse.Namespace, method: str, rank: int, test: str) -> tuple[float, float, float]:
    """(before, after, the share of the parameters that is left)."""
    more = dict(pair.split("=", 1) for pair in args.set)
    options = SHORT.get(method, {"fc": method})
    report = onnxprune.compress(
        args.model,
        calib=args.calib,
        eval=test,
        samples=args.samples,
        seed=args.seed,
        method="none",
        rank=rank,
        only=tuple(args.only or ()),
        mean=MEAN,
        std=STD,
        measure=False,
        **options,
        **more,
    ).report
    assert report.accuracy is not None
    return report.accuracy.before, report.accuracy.after, report.after.params / report.before.params


def main() -> None:
    args = parsed()
    ranks = [int(rank) for rank in args.ranks.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        test = str(Path(folder) / "test.npz")
        with np.load(args.test) as held:
            np.savez(test, x=held["x"][args.skip :], y=held["y"][args.skip :])
        rows, left, before = [], {}, 0.0
        for method in args.methods.split(","):
            cells = []
            for rank in ranks:
                before, after, left[rank] = accuracy(args, method, rank, test)
                cells.append(f"{after:.2%}")
            rows.append(f"| `{method}` | {' | '.join(cells)} |")
            print(rows[-1], flush=True)
    print(f"\n{before:.2%} before\n")
    print(f"| method | {' | '.join(f'rank {rank}: {left[rank]:.1%} of all parameters' for rank in ranks)} |")
    print("|---|" + "--:|" * len(ranks))
    print("\n".join(rows))


if __name__ == "__main__":
    main()
