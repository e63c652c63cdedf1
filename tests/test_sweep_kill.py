"""`kill -9` in the middle of a sweep: a rerun repeats nothing that was finished.

This file is also the script that the tests start: it runs a sweep in the current folder, notes each job that begins in
a file, and kills itself in the middle of one where it is told to.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sweep_runs import swept

from onnxprune.sweeping.facts import Sweep
from onnxprune.sweeping.store import Store


def sweep_here(die_in: int, moment: str, jobs: int) -> None:
    """Run the sweep, noting jobs; die in job number `die_in`, before its model or before its result is written."""
    from onnxprune.sweeping import run

    begun, whole = 0, run.compress

    def noted(*arguments: Any, **options: Any) -> Any:
        nonlocal begun
        begun += 1
        config = options["config"]
        with Path("jobs.txt").open("a") as file:
            file.write(f"{config.method} {config.fc} {config.macs}\n")
        return whole(*arguments, **options)

    def before(function: Any) -> Any:
        def dying(*arguments: Any) -> Any:
            if begun >= die_in:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments)

        return dying

    run.compress = noted
    if moment == "model":
        Store.keep_model = before(Store.keep_model)  # type: ignore[method-assign]
    if moment == "result":
        Store.keep = before(Store.keep)  # type: ignore[method-assign]
    swept(Path("out"), jobs=jobs)


def started(folder: Path, *arguments: str) -> int:
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), *sys.path)))
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, __file__, *arguments], cwd=folder, env=environment, capture_output=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode


def results(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [*(folder / "out/results").glob("*.json"), *(folder / "out/models").glob("*.onnx")]
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


@pytest.mark.parametrize(("moment", "jobs"), [("model", 1), ("result", 1), ("result", 2)])
def test_a_killed_sweep_goes_on_where_it_was(tmp_path: Path, moment: str, jobs: int) -> None:
    assert started(tmp_path, "4", moment, str(jobs)) == -signal.SIGKILL
    begun = (tmp_path / "jobs.txt").read_text().splitlines()
    finished = results(tmp_path)
    done = sum(name.endswith(".json") for name in finished)
    assert len(begun) - jobs <= done < len(begun)
    assert done > 0
    assert not (tmp_path / "out/index.html").exists()
    assert started(tmp_path, "99", "", str(jobs)) == 0
    again = (tmp_path / "jobs.txt").read_text().splitlines()[len(begun) :]
    assert len(again) == 6 - done
    complete = [name for name in finished if name.endswith(".json")]
    assert {name: results(tmp_path)[name] for name in complete} == {name: finished[name] for name in complete}
    found = Sweep.model_validate_json((tmp_path / "out/sweep.json").read_bytes())
    other = swept(tmp_path / "other")
    for row, expected in zip(found.rows, other.rows, strict=True):
        assert (row.method, row.budget, row.macs, row.key) == (
            *(expected.method, expected.budget, expected.macs, expected.key),
        )
        assert np.isclose(row.relative_error, expected.relative_error)  # type: ignore[arg-type]


if __name__ == "__main__":
    sweep_here(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
