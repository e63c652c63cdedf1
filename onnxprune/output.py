"""Write all the files of a run, or none: every byte is on disk before the first gets its name, the model last."""

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx_ir as ir

from onnxprune.atomic import Staged, explained, require_writable, staged
from onnxprune.errors import BadInput
from onnxprune.model_io import SavedFiles, save


def require_outputs(
    model: Path, output: Path, others: Mapping[str, Path], data: Iterable[Path], overwrite: bool
) -> None:
    """Find out before the work starts whether everything can be written where it should go.

    Raises BadInput where it cannot, two outputs are one file, or an output is what the run reads: `data`, or the model
    (`output` may be it where `overwrite` is set).
    """
    require_apart(model, {"--output": output, **others}, data, overwrite)


def require_apart(model: Path, outputs: Mapping[str, Path], data: Iterable[Path], overwrite: bool = False) -> None:
    """The same for outputs by option, none of which has to be a model.

    Raises BadInput as `require_outputs` does.
    """
    seen: dict[Path, str] = {}
    for option, path in outputs.items():
        if _same(path, model) and not (option == "--output" and overwrite):
            hint = "; --overwrite allows it" if option == "--output" else ""
            raise BadInput(f"{option} {path} is the input itself{hint}")
        if any(_same(path, given) for given in data):
            raise BadInput(f"{option} {path} is also an input of this run")
        if path.resolve() in seen:
            raise BadInput(f"{option} and {seen[path.resolve()]} name the same file, {path}")
        seen[path.resolve()] = option
        require_writable(path)


def _same(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and path.samefile(other)


def write_outputs(model: ir.Model, output: Path, others: Mapping[Path, str]) -> SavedFiles:
    """Write the model and the texts that go with it.

    Raises BadInput where the disk is full or a path is not writable any more; then nothing has changed.
    """
    with contextlib.ExitStack() as stack:
        waiting = [(_write(stack, path, text), path) for path, text in others.items()]

        def publish() -> None:
            for stage, path in waiting:
                with explained(path):
                    stage.publish(path)

        return save(model, output, before=publish)


def _write(stack: contextlib.ExitStack, path: Path, text: str) -> Staged:
    stage = stack.enter_context(staged(path))
    stage.write(text.encode())
    stage.file.flush()
    os.fsync(stage.file.fileno())
    return stage
