"""The folder of a sweep: each finished job is a file named by what the job depends on, each pruned model one beside."""

import re
from pathlib import Path
from typing import TypeVar

import onnx_ir as ir
from pydantic import BaseModel, ConfigDict, ValidationError

from onnxprune.atomic import explained, require_writable, write_bytes
from onnxprune.model_io import save
from onnxprune.report import Report
from onnxprune.sweeping.jobs import Job

Facts = TypeVar("Facts", bound=BaseModel)


class Finished(BaseModel):
    """What came of one job: a report and a model (paths inside the folder), or why its budget cannot be met."""

    model_config = ConfigDict(frozen=True)

    label: str
    budget: float
    report: Report | None = None
    files: tuple[str, ...] = ()
    sha256: str = ""
    failed: str = ""
    exit_code: int = 0


class Store:
    """Files appear whole or not at all, the model before the result that names it."""

    def __init__(self, folder: Path) -> None:
        """Make the folder. Raises BadInput where that is not possible."""
        self.folder = folder
        with explained(folder):
            for part in ("results", "models"):
                (folder / part).mkdir(parents=True, exist_ok=True)
        require_writable(folder / "sweep.json")

    def read(self, key: str) -> Finished | None:
        """The result at an address; None where there is none that can be read."""
        return self.load(key, Finished)

    def load(self, name: str, kind: type[Facts]) -> Facts | None:
        """What a file in `results` holds; None where there is none that can be read."""
        try:
            return kind.model_validate_json((self.folder / "results" / f"{name}.json").read_bytes())
        except (OSError, ValidationError):
            return None

    def keep(self, name: str, facts: BaseModel) -> None:
        """Write a file in `results`. Raises BadInput where the disk is full."""
        write_bytes(self.folder / "results" / f"{name}.json", facts.model_dump_json(indent=1).encode() + b"\n")

    def keep_model(self, key: str, job: Job, model: ir.Model) -> tuple[str, ...]:
        """Write a pruned model and return its files. Raises BadInput where the disk is full."""
        name = re.sub(r"[^\w.=+-]+", "_", job.label)
        saved = save(model, self.folder / "models" / f"{name}-{job.budget:g}-{key[:8]}.onnx")
        return tuple(path.relative_to(self.folder).as_posix() for path in (saved.model, saved.data) if path is not None)

    def checkpoint(self, key: str) -> Path:
        """Where the fine-tune of a job notes how far it is."""
        return self.folder / "results" / f"{key}.checkpoint"

    def has(self, one: Finished) -> bool:
        """Whether the files of a model are there."""
        return bool(one.files) and all((self.folder / file).is_file() for file in one.files)

    def drop(self, one: Finished) -> None:
        """Remove the files of a model."""
        for file in one.files:
            (self.folder / file).unlink(missing_ok=True)

    def write(self, name: str, text: str) -> None:
        """Write a file that is for the user."""
        write_bytes(self.folder / name, text.encode())
