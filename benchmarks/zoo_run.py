"""One model of the zoo in a process of its own: prune it, and tell what came of it as one line of JSON."""

import argparse
import json
import resource
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import zoo_inputs

import onnxprune
from onnxprune.config import make_config
from onnxprune.heap import keep_freed_memory
from onnxprune.runtime import open_session, run

HALF = {"method": "magnitude", "rebuild": "none", "ratio": 0.5, "align": 1}
EXACTLY = {"align": 1}  # whole blocks of the runtime would let each method stop at another share
METHODS = {"obs": EXACTLY | {"method": "obs"}, "magnitude": EXACTLY | {"method": "magnitude", "rebuild": "none"}}
FEW, MANY, HELD_OUT = 8, 256, 32
KILOBYTE = 1024


def main() -> None:
    options = _options()
    keep_freed_memory()  # as the command line does
    work = {"coverage": coverage, "fidelity": fidelity}[options.task]
    try:
        told = work(options.name, options.path, options.cache)
    except Exception as error:
        told = {"error": f"{type(error).__name__}: {error}"}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KILOBYTE
    print(json.dumps({"name": options.name, "memory": memory, **told}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=("coverage", "fidelity"))
    parser.add_argument("name")
    parser.add_argument("path", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    return parser.parse_args()


def coverage(name: str, path: Path, cache: Path) -> dict[str, Any]:
    """Half of every group gone, by magnitude and without a rebuild, on a few inputs: what a `zoo_table.Row` holds."""
    try:
        inputs = zoo_inputs.real_inputs(name, path, cache, FEW)
    except zoo_inputs.Missing:
        inputs = None
    shapes = zoo_inputs.shapes(name)
    found = onnxprune.inspect(path, make_config(input_shape=shapes), inputs)
    start = time.perf_counter()
    report = onnxprune.compress(path, calib=inputs, samples=FEW, input_shape=shapes, threads=1, **HALF).report
    return {
        "seconds": time.perf_counter() - start,
        "macs": _share(report.after.macs, report.before.macs),
        "params": _share(report.after.params, report.before.params),
        "least_macs": found.least_macs,
        "least_params": found.least_params,
        "pruned": sum(group.kept < group.width for group in report.groups),
        "groups": len(report.groups),
        "closed": _by_reason(report),
        "proof": report.proof,
        "speedup": report.latency[0].speedup,
        "data": "made up" if inputs is None else "real",
    }


def fidelity(name: str, path: Path, cache: Path) -> dict[str, Any]:
    """Both methods at 0.7 of the multiply–adds, on real inputs: what a `zoo_table.Fidelity` holds."""
    inputs = zoo_inputs.real_inputs(name, path, cache, MANY)
    held_out = zoo_inputs.real_inputs(name, path, cache, HELD_OUT, held_out=True)
    if inputs is None or held_out is None:
        raise ValueError("there are no real inputs for this model")
    told: dict[str, Any] = {}
    start = time.perf_counter()
    for method, asked in METHODS.items():
        result = onnxprune.compress(
            onnx.load(path), calib=inputs, macs=0.7, measure=False, input_shape=zoo_inputs.shapes(name), **asked
        )
        told[method] = relative_error(onnx.load(path), result.model, held_out, name)
        told[f"{method}_macs"] = _share(result.report.after.macs, result.report.before.macs)
    return {**told, "seconds": time.perf_counter() - start}


def relative_error(original: onnx.ModelProto, pruned: onnx.ModelProto, held_out: Mapping[str, Any], name: str) -> float:
    """‖y − y₀‖/‖y₀‖ over all held-out inputs, the mean over the outputs that hold numbers with a fraction."""
    import onnx_ir as ir

    sessions = [open_session(ir.from_proto(model)) for model in (original, pruned)]
    squares: dict[str, Any] = {}
    for feeds in zoo_inputs.one_by_one(original, held_out, zoo_inputs.shapes(name)):
        expected, found = (run(session, feeds) for session in sessions)
        for key, y in expected.items():
            if np.issubdtype(y.dtype, np.floating):
                x, y = np.nan_to_num(found[key].astype(np.float64)), np.nan_to_num(y.astype(np.float64))
                squares[key] = squares.get(key, 0) + np.array([np.sum((x - y) ** 2), np.sum(y**2)])
    return float(np.mean([np.sqrt(wrong / max(whole, 1e-30)) for wrong, whole in squares.values()]))


def _share(after: float, before: float) -> float:
    return after / before if before else 1.0


def _by_reason(report: onnxprune.Report) -> dict[str, tuple[int, int]]:
    groups, channels = Counter[str](), Counter[str]()
    for one in report.closed:
        groups[one.reason] += 1
        channels[one.reason] += one.width
    return {reason: (count, channels[reason]) for reason, count in groups.most_common()}


if __name__ == "__main__":
    main()
