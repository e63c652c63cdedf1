"""Halve the multiply–adds of a trained network by the Python API, and print what that cost."""

from pathlib import Path

import onnxprune

HERE = Path(__file__).parent


def main() -> None:
    """Prune the example network and print the figures of the report."""
    result = onnxprune.compress(
        HERE / "resnet20-cifar10.onnx",
        calib=HERE / "calibration.npz",
        eval=HERE / "test.npz",
        macs=0.5,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    )
    before, after, accuracy = result.report.before, result.report.after, result.report.accuracy
    print(f"multiply-adds {before.macs:,} -> {after.macs:,}")
    print(f"parameters    {before.params:,} -> {after.params:,}")
    if accuracy is not None:
        print(f"accuracy      {accuracy.before:.1%} -> {accuracy.after:.1%}")
    print(f"proof         largest relative difference {result.report.proof:.0e}")


if __name__ == "__main__":
    main()
