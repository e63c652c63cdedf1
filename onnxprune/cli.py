"""The command line: `onnxprune in.onnx -o out.onnx`, and subcommands; errors in one line, and their exit codes."""

import errno
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxprune.commands import commands
from onnxprune.errors import BadInput, OnnxPruneError
from onnxprune.config import Config
from onnxprune.options import Files, Screen, config_text, read_options, read_screen, takes
from onnxprune.version import __version__

if TYPE_CHECKING:
    from onnxprune.pipeline import Result

SUBCOMMANDS = ("inspect", "apply", "bench", "compare", "doctor")
FULL = (errno.ENOSPC, errno.EDQUOT)
INTERRUPTED = 130
HELP = """Make a trained ONNX model smaller and faster: remove channels, solve the rest again, prove it, time it.

Exit codes: 0 done, 2 bad input, 3 budget or accuracy bound not met, 1 a defect. Nothing is written unless it is 0.
"""
MORE = "Subcommands: inspect, apply, bench, compare, doctor; `onnxprune inspect --help` and so on tell more."

app = typer.Typer(add_completion=False, rich_markup_mode="rich", context_settings={"help_option_names": ["-h", "--help"]})


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
    settings, files = read_options(options, str(config) if config else None)
    others = {"--plan": files.plan, "--report": files.report, "--save-config": save_config}
    paths = {option: Path(path) for option, path in others.items() if path}
    output = _output(model, files, paths)
    from onnxprune import pipeline

    with watched(screen) as progress:
        result = pipeline.compress(
            str(model), calib=files.calib, eval=files.eval, metric=files.metric, config=settings, progress=progress
        )
    if output is not None:
        _write(result, output, paths, config_text(settings, files))
    _show(result, screen, output)


def _output(model: Path, files: Files, paths: Mapping[str, Path]) -> Path | None:
    """Where the model goes, made sure of; None for a dry run."""
    if files.dry_run:
        return None
    if files.output is None:
        raise BadInput("say where the pruned model goes (-o out.onnx), or that nothing is to be written (--dry-run)")
    from onnxprune.output import require_outputs

    output = Path(files.output)
    require_outputs(model, output, paths, files.overwrite)
    return output


def watched(screen: Screen) -> Any:
    """The progress of a command, as a context: bars on a terminal or where they are asked for."""
    wanted = sys.stderr.isatty() if screen.progress is None else screen.progress
    if not wanted or screen.quiet:
        return nullcontext(None)
    from onnxprune.bars import Bars

    return Bars(force=bool(screen.progress))


def _write(result: "Result", output: Path, paths: Mapping[str, Path], config: str) -> None:
    from onnxprune.output import write_outputs

    texts = {
        "--plan": result.plan.model_dump_json(indent=1) + "\n",
        "--report": result.report.model_dump_json(indent=1) + "\n",
        "--save-config": config,
    }
    write_outputs(result.model, output, {path: texts[option] for option, path in paths.items()})


def _show(result: "Result", screen: Screen, output: Path | None) -> None:
    if screen.json_:
        typer.echo(result.report.model_dump_json(indent=1))
    elif not screen.quiet:
        from onnxprune import render

        console = render.screen()
        render.show_report(result.report, console, screen.verbose)
        console.print(f"{'wrote':>11}  {output or 'nothing (--dry-run)'}", soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; errors become one line on standard error."""
    chosen = commands if arguments and arguments[0] in SUBCOMMANDS else app
    try:
        return chosen(arguments or ["--help"], prog_name="onnxprune", standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("onnxprune: interrupted; nothing was written", err=True)
        return INTERRUPTED
    except Exception as error:
        if "--debug" in arguments:
            import traceback

            traceback.print_exc()
        code, told = _explained(error)
        typer.echo(f"onnxprune: error: {told}", err=True)
        return code


def _explained(error: Exception) -> tuple[int, str]:
    """Exit code and sentence."""
    if isinstance(error, OnnxPruneError):
        return error.exit_code, str(error)
    usage = getattr(error, "format_message", None)
    if usage is not None:
        return 2, f"{' '.join(usage().split())} (onnxprune --help lists the options)"
    if isinstance(error, OSError) and error.errno in FULL:
        return 2, "the disk is full (temporary files go where TMPDIR says); nothing was written"
    if isinstance(error, MemoryError):
        return 2, "out of memory; nothing was written: try fewer --samples or a smaller --batch-size"
    told = " ".join(str(error).split())
    return 1, f"a defect of onnxprune, please report it ({type(error).__name__}: {told}); --debug prints the traceback"
