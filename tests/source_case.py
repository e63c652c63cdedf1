"""Arrays, files and readers that calibration sources are opened from."""

from pathlib import Path

import numpy as np

from onnxprune.calibration.images import ImageOptions
from onnxprune.calibration.inputs import InputSpec
from onnxprune.calibration.source import Source, open_source

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)
X = InputSpec("input", F32, (None, 3, 4, 4), ("batch", None, None, None))
FIXED = InputSpec("input", F32, (4, 3, 4, 4))
PAIR = (InputSpec("a", F32, (None, 2)), InputSpec("b", I64, (None, 3)))
DATA = np.random.default_rng(0).standard_normal((11, 3, 4, 4)).astype(np.float32)


def opened(
    calib: object, *specs: InputSpec, samples: int | None = None, batch_size: int = 4, seed: int = 0, **image: object
) -> Source:
    options = ImageOptions(**image)  # type: ignore[arg-type]
    return open_source(calib, specs or (X,), samples=samples, batch_size=batch_size, seed=seed, image=options)


def read(source: Source, name: str = "input") -> np.ndarray:
    return np.concatenate([feed[name] for feed in source.batches()])


class Reader:
    def __init__(self, count: int) -> None:
        self.left = [{"input": DATA[at : at + 1]} for at in range(count)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop(0) if self.left else None


def saved(folder: Path, kind: str) -> Path:
    path = folder / ("data.npy" if kind.startswith("npy") else "data.npz")
    {
        "npy": lambda: np.save(path, DATA),
        "npy in Fortran order": lambda: np.save(path, np.asfortranarray(DATA)),
        "npz stored": lambda: np.savez(path, input=DATA),
        "npz stored under x with labels": lambda: np.savez(path, y=np.arange(11), x=DATA),
        "npz compressed": lambda: np.savez_compressed(path, input=DATA),
        "npz compressed under another name with labels": lambda: np.savez_compressed(
            path, pics=DATA, labels=np.ones(3)
        ),
    }[kind]()
    return path


KINDS = [
    "npy",
    "npy in Fortran order",
    "npz stored",
    "npz stored under x with labels",
    "npz compressed",
    "npz compressed under another name with labels",
]


def ordered(rows: np.ndarray) -> np.ndarray:
    """The rows by their first number: samples come in the order in which they were drawn."""
    return rows[np.argsort(rows.reshape(len(rows), -1)[:, 0], kind="stable")]
