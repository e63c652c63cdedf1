"""The command line: `onnxprune in.onnx -o out.onnx`, and subcommands; errors in one line, and their exit codes."""

import errno
import io
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxprune.commands import commands
from onnxprune.config import Config
from onnxprune.errors import OnnxPruneError
from onnxprune.heap import collect_seldom, keep_freed_memory
from onnxprune.options import Files, Screen, config_text, read_options, read_screen, takes
from onnxprune.showing import checkpoint_of, finish, first, forget, planned_output, watched
from onnxprune.version import __version__

SUBCOMMANDS = ("inspect", "apply", "fold", "finetune", "sensitivity", "sweep", "bench", "compare", "doctor")
FULL = (errno.ENOSPC, errno.EDQUOT)
INTERRUPTED = 130
HELP = """Make a trained ONNX model smaller and faster: remove channels, solve the rest again, prove it, time it.

Exit codes: 0 done, 2 bad input, 3 budget or accuracy bound not met, 1 a defect. Nothing is written unless it is 0.
"""
MORE = f"Subcommands: {', '.join(SUBCOMMANDS)}; `onnxprune inspect --help` tells more."

app = typer.Typer(
    add_completion=False, rich_markup_mode="rich", context_settings={"help_option_names": ["-h", "--help"]}
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"onnxprune {__version__}")
        raise typer.Exit


@app.command(help=HELP, epilog=MORE)
@takes(Files, Config, Screen)
def compress(
    model: Annotated[Path, typer.Argument(help="The trained model.", metavar="MODEL.onnx")],
    config: Annotated[
        Path | None, typer.Option(help="YAML or TOML that holds options.", metavar="FILE", rich_help_panel="Files")
    ] = None,
    save_config: Annotated[
        Path | None, typer.Option(help="Write the options used.", metavar="FILE.yaml", rich_help_panel="Files")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    **options: Any,
) -> None:
    """Prune a model."""
    screen = read_screen(options)
    settings, files = read_options(options, config)
    paths = {"--plan": files.plan, "--report": files.report, "--save-config": save_config}
    others = {option: Path(path) for option, path in paths.items() if path}
    output = planned_output(model, files, others)
    from onnxprune import pipeline

    checkpoint = checkpoint_of(output) if settings.finetune else None
    if not first():
        settings = settings.model_copy(update={"measure": False})  # what the first process times is not disturbed
    with watched(screen) as progress:
        result = pipeline.compress(
            str(model),
            calib=files.calib,
            eval=files.eval,
            metric=files.metric,
            train=files.train,
            checkpoint=checkpoint,
            resume=files.resume,
            config=settings,
            progress=progress,
        )
    finish(result, screen, output, others, config_text(settings, files))
    forget(checkpoint)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    keep_freed_memory()
    collect_seldom()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # temporary files are removed on the way
    sys.path.append("")  # --metric module:function may lie in the working folder; last, so that it shadows nothing
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no × should not end a run
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; errors become one line on standard error."""
    chosen = commands if arguments and arguments[0] in SUBCOMMANDS else app
    try:
        code = chosen(arguments or ["--help"], prog_name="onnxprune", standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        if "--debug" in arguments:
            import traceback

            traceback.print_exc()
        code, told = _explained(error)
        typer.echo(f"onnxprune: error: {told}", err=True)
    if code == INTERRUPTED:  # some typer versions catch it themselves and return the code
        typer.echo("onnxprune: interrupted", err=True)
    return int(code)


def _explained(error: Exception) -> tuple[int, str]:
    """Exit code and sentence."""
    if isinstance(error, OnnxPruneError):
        return error.exit_code, " ".join(str(error).split())
    usage = getattr(error, "format_message", None)
    if usage is not None:
        return 2, f"{' '.join(usage().split())} (onnxprune --help lists the options)"
    if isinstance(error, OSError) and error.errno in FULL:
        return 2, "the disk is full (temporary files go where TMPDIR says); nothing was written"
    if isinstance(error, MemoryError):
        return 2, "out of memory; nothing was written: try fewer --samples or a smaller --batch-size"
    told = " ".join(str(error).split())
    return 1, f"a defect of onnxprune, please report it ({type(error).__name__}: {told}); --debug prints the traceback"
