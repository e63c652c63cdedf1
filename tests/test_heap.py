"""What is freed is handed out again without new pages, once the process has asked for that."""

import subprocess
import sys

import pytest

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


def test_asking_does_nothing_where_there_is_nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxprune import heap

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr("ctypes.CDLL", None)
    heap.keep_freed_memory()
