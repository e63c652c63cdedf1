"""How long a run takes, in passes of onnxruntime over the same number of inputs, and how much memory it needs.

One run a process: what an earlier one left in the heap would count as memory of a later one.
"""

import argparse
import threading
import time
from pathlib import Path

import numpy as np

import onnxprune
from onnxprune.bench import random_feeds
from onnxprune.heap import keep_freed_memory
from onnxprune.model_io import load
from onnxprune.runtime import open_session, run

BATCHES = (1, 8, 32)
THREADS = 2


def main() -> None:
    options = _options()
    keep_freed_memory()  # as the command line does
    print("| model | inputs | one pass | run | passes | peak anonymous memory | disk |\n|---|--:|--:|--:|--:|--:|--:|")
    a_pass = one_pass(options.model, options.samples)
    watch = _Watch()
    start = time.perf_counter()
    asked = {name: getattr(options, name) for name in ("samples", "method", "macs", "mean", "std")}
    result = onnxprune.compress(str(options.model), calib=str(options.calib) if options.calib else None, **asked)
    seconds = time.perf_counter() - start
    disk = result.report.calibration.disk_bytes / 1e6
    print(
        f"| {options.model.name} | {options.samples} | {a_pass:.1f} s | {seconds:.1f} s | {seconds / a_pass:.1f} "
        f"| {watch.stop() / 1e6:.0f} MB | {disk:.0f} MB |"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calib", type=Path, help="as of onnxprune; synthetic if not given")
    parser.add_argument("--mean")
    parser.add_argument("--std")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--method", default="obs")
    parser.add_argument("--macs", type=float)
    return parser.parse_args()


def one_pass(path: Path, samples: int) -> float:
    """Seconds that onnxruntime needs for so many inputs at the batch size that suits it best."""
    model = load(path).model
    session = open_session(model, threads=THREADS, timed=True)
    best = np.inf
    for batch in BATCHES:
        feeds, runs = random_feeds(model, {}, batch, seed=0), max(2, 64 // batch)
        run(session, feeds)
        start = time.perf_counter()
        for _ in range(runs):
            run(session, feeds)
        best = min(best, (time.perf_counter() - start) / runs / batch)
    return best * samples


class _Watch:
    """Samples the anonymous memory of this process (Linux) until it is stopped; the peak in bytes."""

    def __init__(self) -> None:
        self._peak, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._over.set()
        self._thread.join()
        return self._peak

    def _look(self) -> None:
        status = Path("/proc/self/status")
        while not self._over.wait(0.005):
            lines = status.read_text().splitlines() if status.exists() else []
            found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")]
            self._peak = max(self._peak, *found, 0)


if __name__ == "__main__":
    main()
