"""What is freed is handed out again without new pages, once the process has asked for that."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from onnxprune.heap import keep_freed_memory

PROGRAM = """
import resource, sys, threading
import numpy as np
from onnxprune.heap import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()

def work():
    for _ in range(20):
        np.ones(5_000_000, np.float32)

work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
for _ in range(3):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def new_pages(choice: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, choice], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is what it speaks to")
def test_pages_of_freed_arrays_are_used_again_by_all_threads() -> None:
    """80 arrays of 20 MB, one after the other: as glibc is set each has new pages, of 4 kB or huge ones."""
    assert new_pages("keep") < new_pages("leave") / 4


@pytest.mark.parametrize(
    ("platform", "library", "told"), [("linux", ["mallopt"], 3), ("linux", [], 0), ("win32", [], 0)]
)
def test_the_heap_is_told_once_an_option_and_only_where_it_listens(
    platform: str, library: list[str], told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(sys, "platform", platform)
    functions = dict.fromkeys(library, lambda option, value: calls.append((option, value)))
    monkeypatch.setattr("ctypes.CDLL", lambda name: SimpleNamespace(**functions))
    keep_freed_memory()
    assert len({option for option, _ in calls}) == len(calls) == told
