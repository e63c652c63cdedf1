"""`kill -9` at any moment leaves the user's files whole: each is the old one or the new one, and the model comes last.

This file is also the script that the tests start: it forks a child for each moment, which runs the command line and
kills itself (before the n-th step of writing), or is killed by its parent after a random time.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
from cli_case import FAST, tiny_model, write_case

OUTPUTS = ("out.onnx", "plan.json", "report.json")
COMMAND = ["in.onnx", "-o", "out.onnx", "--plan", "plan.json", "--report", "report.json", "--quiet",
           "--calib", "calib.npz", "--macs", "0.5", *FAST]  # fmt: skip
MOST_STEPS = 40


def child(step: int | None) -> int:
    """Fork a process that runs the command and dies before this step of writing; without one it runs to its end."""
    process = os.fork()
    if process:
        return process
    from onnxprune.cli import run

    if step is not None:
        _die_before(step)
    os._exit(run(COMMAND))


def _die_before(step: int) -> None:
    """Count the calls that put bytes or names on disk."""
    left = [step]

    def counted(call):  # type: ignore[no-untyped-def]
        def wrapper(*arguments, **options):  # type: ignore[no-untyped-def]
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return wrapper

    from onnxprune.atomic import Staged

    os.fsync, Path.replace = counted(os.fsync), counted(Path.replace)
    Staged.write, Path.unlink = counted(Staged.write), counted(Path.unlink)  # type: ignore[method-assign]


def at_every_step(folder: Path) -> list[dict[str, object]]:
    """What is on disk after a kill before each step, until a run comes to its end; all share one computed result."""
    from onnxprune import pipeline

    calib = str(folder / "calib.npz")
    result = pipeline.compress("in.onnx", calib=calib, macs=0.5, align=1, samples=16, measure=False)
    pipeline.compress = lambda *_, **__: result
    found = []
    for step in range(MOST_STEPS):
        reset(folder)
        _, status = os.waitpid(child(step), 0)
        found.append({"ended": os.WIFEXITED(status), "state": state(folder)})
        if os.WIFEXITED(status):
            break
    return found


def at_random_times(folder: Path, count: int) -> list[dict[str, object]]:
    """The same after kills at seeded random times."""
    reset(folder)
    start = time.perf_counter()
    os.waitpid(child(None), 0)
    whole, rng, found = time.perf_counter() - start, random.Random(0), []
    for _ in range(count):
        reset(folder)
        process = child(None)
        time.sleep(rng.uniform(0, 1.1 * whole))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        found.append({"ended": False, "state": state(folder)})
    return found


def reset(folder: Path) -> None:
    for path in folder.glob("*"):
        if path.name not in ("in.onnx", "calib.npz", "old.onnx"):
            path.unlink()
    shutil.copy(folder / "old.onnx", folder / "out.onnx")
    for name in OUTPUTS[1:]:
        (folder / name).write_text('"old"')


def state(folder: Path) -> dict[str, object]:
    """The outputs as a reader finds them: "old", or what they hold."""
    old = (folder / "out.onnx").read_bytes() == (folder / "old.onnx").read_bytes()
    model = onnx.load(folder / "out.onnx")  # external data included
    onnx.checker.check_model(str(folder / "out.onnx"))
    shapes = {t.name: onnx.numpy_helper.to_array(t).shape for t in model.graph.initializer}
    texts = {name: json.loads((folder / name).read_text()) for name in OUTPUTS[1:]}
    return {"model": "old" if old else str(sorted(shapes.items())), **{n: str(t)[:200] for n, t in texts.items()}}


def input_bytes(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name in ("in.onnx", "calib.npz")}


def found_in(folder: Path, mode: str) -> list[dict[str, dict[str, str]]]:
    before = input_bytes(folder)
    onnx.save(tiny_model(), folder / "old.onnx")
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, __file__, mode],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert input_bytes(folder) == before
    found: list[dict[str, dict[str, str]]] = json.loads(done.stdout)
    for one in found:
        state = one["state"]
        if state["model"] != "old":  # the model comes last
            assert "old" not in (state["plan.json"], state["report.json"])
    new = {json.dumps(one["state"]["model"]) for one in found} - {'"old"'}
    assert len(new) <= 1
    return found


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("external", [False, True])
def test_a_kill_before_any_step_of_writing_leaves_whole_files(tmp_path: Path, external: bool) -> None:
    write_case(tmp_path)
    found = found_in(tmp_path, "external" if external else "steps")
    assert found[-1]["ended"]
    assert found[-1]["state"]["model"] != "old"
    assert len(found) > 12
    assert sum(one["state"]["model"] == "old" for one in found) > 8
    assert external == bool(list(tmp_path.glob("out-*.data")))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_at_a_random_time_leaves_whole_files(tmp_path: Path) -> None:
    write_case(tmp_path)
    assert len(found_in(tmp_path, "times")) == 5


if __name__ == "__main__":
    # Everything that a child needs is loaded once; a child that computes must come from a parent without sessions,
    # whose threads a fork would lose.
    import onnxprune.model_io
    import onnxprune.output
    import onnxprune.pipeline
    import onnxprune.render

    if sys.argv[1] == "external":
        onnxprune.model_io.PROTOBUF_LIMIT = 0
    print(json.dumps(at_random_times(Path.cwd(), 5) if sys.argv[1] == "times" else at_every_step(Path.cwd())))
