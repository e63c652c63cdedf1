"""The memory that a session takes, measured in a process of its own: a file that shrank may be as large there."""

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxprune.graph import Array
from onnxprune.model_io import save
from onnxprune.report import Memory

SECONDS = 300
CHILD = """
import sys
import numpy, onnxruntime

def kilobytes(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field))

model, feeds = sys.argv[1:]
given = dict(numpy.load(feeds))
before = kilobytes("VmRSS")
with open("/proc/self/clear_refs", "w") as reset:  # the highest moment so far
    reset.write("5")
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
session.run(None, given)
print(kilobytes("VmRSS") - before, kilobytes("VmHWM") - before)
"""
"""Of Linux; elsewhere it fails. It imports nothing of this package, so that nothing else takes memory."""


def session_memory(model: ir.Model, feeds: Mapping[str, Array]) -> Memory | None:
    """What a session of the model takes on the CPU, by default settings; None where the system does not tell."""
    with tempfile.TemporaryDirectory() as folder:
        path, data = Path(folder) / "model.onnx", Path(folder) / "feeds.npz"
        save(model, path)
        np.savez(data, **feeds)  # type: ignore[arg-type]
        command = [sys.executable, "-c", CHILD, str(path), str(data)]
        try:
            told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS).stdout
        except (OSError, subprocess.SubprocessError):
            return None
    session, peak = (1024 * int(word) for word in told.split())
    return Memory(session=session, peak=max(session, peak))
