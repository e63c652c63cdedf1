"""Prune every model of the zoo and every small network of the tests, each in a process of its own; write a table.

Exit code 1 if any failed. What of the small half cannot be fetched is told and does no harm: CI runs that.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import zoo_table
from zoo_models import ROOT, Entry, entries

RUN = Path(__file__).with_name("zoo_run.py")


def main() -> int:
    options = _options()
    task = "fidelity" if options.fidelity else "coverage"
    kind = zoo_table.Fidelity if options.fidelity else zoo_table.Row
    rows, failed = [], 0
    for entry in _chosen(entries(options.cache, options.light), options):
        row = kind(**told(entry, task, options.cache, options.limit))
        rows.append(row)
        failed += bool(row.error) and not (options.light and entry.error)
        print(zoo_table.line(row), file=sys.stderr, flush=True)  # nothing measured is lost where this is interrupted
    text = zoo_table.fidelity(rows) if options.fidelity else zoo_table.coverage(rows)
    print(text)
    if options.write is not None:
        zoo_table.write(options.write, task, text)
    return int(failed > 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--light", action="store_true", help="the small half alone: models of up to 7 MB")
    parser.add_argument("--only", metavar="GLOB", default="*", help="models whose name fits, as silero-vad/*")
    parser.add_argument("--fidelity", action="store_true", help="compare obs with magnitude on real inputs instead")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds that a model may take")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache/zoo", help="where packages are kept")
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="put the table between this file's marks")
    return parser.parse_args()


def _chosen(found: Sequence[Entry], options: argparse.Namespace) -> list[Entry]:
    fitting = [entry for entry in found if fnmatchcase(entry.name, options.only)]
    return [entry for entry in fitting if not (options.fidelity and entry.name.startswith("topologies/"))]


def told(entry: Entry, task: str, cache: Path, limit: float, command: Sequence[str] = ()) -> dict[str, Any]:
    """What the process of one model tells; where it fails, hangs or dies, the name and an error.

    `command` stands for the program to run, as a test may have it.
    """
    if entry.error:
        return {"name": entry.name, "error": entry.error}
    program = command or (sys.executable, str(RUN))
    here = {**os.environ, "PYTHONPATH": str(ROOT)}  # this checkout, whatever is installed
    arguments = (*program, task, entry.name, str(entry.path), "--cache", str(cache))
    try:
        ran = subprocess.run(arguments, capture_output=True, text=True, timeout=limit, check=False, env=here)
    except subprocess.TimeoutExpired:
        return {"name": entry.name, "error": f"took longer than {limit:g} s"}
    lines = ran.stdout.strip().splitlines()
    if ran.returncode == 0 and lines:
        return dict(json.loads(lines[-1]))
    last = (ran.stderr.strip().splitlines() or ["nothing was said"])[-1]
    return {"name": entry.name, "error": f"the process ended with {ran.returncode}: {last}"}


if __name__ == "__main__":
    sys.exit(main())
