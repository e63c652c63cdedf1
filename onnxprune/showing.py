"""What the commands share: progress while they work, and files and tables when they are done."""

import os
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from onnxprune.errors import BadInput
from onnxprune.options import Files, Screen

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console

    from onnxprune.pipeline import Result


def first() -> bool:
    """Whether this process is the only one that torchrun started, or the first: the one that writes and prints."""
    return os.environ.get("RANK", "0") == "0"


def checkpoint_of(output: Path | None) -> Path | None:
    """Where a fine-tune notes how far it is: beside the output."""
    return None if output is None else output.with_name(f"{output.name}.checkpoint")


def forget(checkpoint: Path | None) -> None:
    """Remove the checkpoints of a run that has written its output."""
    if checkpoint is not None and first():
        from onnxprune.course import forget as remove

        remove(checkpoint)


def planned_output(model: Path, files: Files, others: Mapping[str, Path]) -> Path | None:
    """Where the model goes, made sure of before the work starts; None for a dry run.

    Raises BadInput where it is not said, is the input, or cannot be written; `others` are further outputs by option.
    """
    if files.dry_run:
        return None
    if files.output is None:
        raise BadInput("say where the pruned model goes (-o out.onnx), or that nothing is to be written (--dry-run)")
    from onnxprune.output import require_outputs

    output = Path(files.output)
    data = [Path(path) for path in (files.calib, files.eval, files.train) if path]
    require_outputs(model, output, others, data, files.overwrite)
    return output


def watched(screen: Screen) -> Any:
    """The progress of a command, as a context: bars on a terminal or where they are asked for."""
    wanted = sys.stderr.isatty() if screen.progress is None else screen.progress
    if not wanted or screen.quiet or not first():
        return nullcontext(None)
    from onnxprune.bars import Bars

    return Bars(force=bool(screen.progress))


def finish(result: "Result", screen: Screen, output: Path | None, others: Mapping[str, Path], config: str) -> None:
    """Write what was asked for, then print the report; `others` as above, `config` the text of --save-config."""
    texts = {
        "--plan": result.plan.model_dump_json(indent=1) + "\n",
        "--report": result.report.model_dump_json(indent=1) + "\n",
        "--save-config": config,
    }
    write(result.model, output, {path: texts[option] for option, path in others.items()})
    console = show(result.report, screen)
    if console is not None:
        from onnxprune.render import show_report

        show_report(result.report, console, screen.verbose, str(output or "nothing (--dry-run)"))


def write(model: Any, output: Path | None, texts: Mapping[Path, str]) -> None:
    """Write the model and the texts that go with it; nothing in a dry run."""
    if output is not None and first():
        from onnxprune.output import write_outputs

        write_outputs(model, output, texts)


def show(facts: "BaseModel", screen: Screen) -> "Console | None":
    """Print facts as JSON where that is asked for; else return the console to print them on, None if quiet."""
    if not first():
        return None
    if screen.json_:
        typer.echo(facts.model_dump_json(indent=1))
    if screen.json_ or screen.quiet:
        return None
    from onnxprune.render import screen as standard_output

    return standard_output()
