"""The subcommands: inspect, apply, fold, finetune, sensitivity, sweep, bench, compare, doctor."""

from pathlib import Path
from typing import Annotated, Any

import typer

from onnxprune.config import BUDGETS, TUNING, Config, panel
from onnxprune.errors import BadInput
from onnxprune.options import Files, Screen, read_options, read_screen, takes
from onnxprune.showing import checkpoint_of, finish, forget, planned_output, show, watched, write
from onnxprune.sweeping.jobs import SHARES, USUAL

LOOKED = ("input_shape", "image_size", "mean", "std", "layout", "channel_order")
DATA = ("samples", "batch_size", "seed", *LOOKED)
JUDGED = ("calib", "eval", "metric", *DATA)
CUTTING = ("finetune", "rounds", "finetune_per_layer", "round_epochs")
TRAINED = tuple(name for name, of in Config.model_fields.items() if panel(of) == TUNING and name not in CUTTING)
SWEPT = tuple(name for name in Config.model_fields if name not in ("method", *BUDGETS))
SHOWN = ("json_", "quiet", "debug")
Model = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The model.")]
ConfigFile = Annotated[
    Path | None, typer.Option(help="YAML or TOML that holds options.", metavar="FILE", rich_help_panel="Files")
]

commands = typer.Typer(
    add_completion=False, rich_markup_mode="rich", context_settings={"help_option_names": ["-h", "--help"]}
)


@commands.command()
@takes(Files, Config, Screen, only=("calib", *LOOKED, "keep", "only", "open", "verbose", *SHOWN))
def inspect(
    model: Model,
    why: Annotated[
        list[str] | None, typer.Option(help="Tell what can go at a node, and what holds the rest.", metavar="NODE")
    ] = None,
    **options: Any,
) -> None:
    """What could be pruned: groups, their widths and share of the cost, and what is closed and why."""
    screen = read_screen(options)
    settings, files = read_options(options, None)
    from onnxprune.inspection import inspect as look

    inspection = look(str(model), settings, files.calib, why or ())
    console = show(inspection, screen)
    if console is not None:
        from onnxprune.render_facts import show_inspection

        show_inspection(inspection, console, screen.verbose)


@commands.command()
@takes(
    Files,
    Config,
    Screen,
    only=(
        *("output", "report", "overwrite", "dry_run", "rebuild", "memory", "keep", "only", "max_drop"),
        *(*JUDGED, "threads", "providers", "measure", "verbose", "progress", *SHOWN),
    ),
)
def apply(
    model: Model,
    plan: Annotated[Path, typer.Argument(metavar="PLAN.json", help="What --plan wrote.")],
    config: ConfigFile = None,
    **options: Any,
) -> None:
    """Remove what a plan says, bit for bit; with --calib, solve the remaining weights again as well."""
    screen = read_screen(options)
    settings, files = read_options(options, config)
    others = {"--report": Path(files.report)} if files.report else {}
    output = planned_output(model, files, others)
    from onnxprune.plan import load_plan
    from onnxprune.replay import apply_plan

    with watched(screen) as progress:
        result = apply_plan(
            str(model),
            load_plan(plan),
            calib=files.calib,
            eval=files.eval,
            metric=files.metric,
            config=settings,
            progress=progress,
        )
    finish(result, screen, output, others, "")


@commands.command()
@takes(
    Files,
    Config,
    Screen,
    only=("output", "report", "overwrite", "dry_run", "calib", "seed", *LOOKED, "verbose", *SHOWN),
)
def fold(model: Model, **options: Any) -> None:
    """Fold masks, gates and zeros into plain weights, and remove channels that are dead then; exact, and proved."""
    screen = read_screen(options)
    settings, files = read_options(options, None)
    others = {"--report": Path(files.report)} if files.report else {}
    output = planned_output(model, files, others)
    from onnxprune.folding import fold as run

    folded = run(str(model), calib=files.calib, config=settings)
    if output is not None:
        from onnxprune.output import write_outputs

        text = folded.report.model_dump_json(indent=1) + "\n"
        write_outputs(folded.model, output, dict.fromkeys(others.values(), text))
    console = show(folded.report, screen)
    if console is not None:
        from onnxprune.render_facts import show_folding

        show_folding(folded.report, console, screen.verbose, str(output or "nothing (--dry-run)"))


@commands.command()
@takes(
    Files,
    Config,
    Screen,
    only=(
        *("output", "train", "eval", "metric", "report", "overwrite", "dry_run", "resume", "keep", *TRAINED),
        *("batch_size", "seed", *LOOKED, "verbose", "progress", *SHOWN),
    ),
)
def finetune(
    model: Model,
    teacher: Annotated[Path | None, typer.Option(help="The original model.", metavar="ORIGINAL.onnx")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training inputs.", metavar="INT")] = 2,
    config: ConfigFile = None,
    **options: Any,
) -> None:
    """Train a model toward the answers of another, or toward labels; its graph stays as it is."""
    screen = read_screen(options)
    settings, files = read_options(options, config)
    others = {"--report": Path(files.report)} if files.report else {}
    output = planned_output(model, files, others)
    checkpoint = checkpoint_of(output)
    from onnxprune.finetuning import finetune as train

    with watched(screen) as progress:
        tuned, report = train(
            str(model),
            None if teacher is None else str(teacher),
            train=files.train,
            epochs=epochs,
            eval=files.eval,
            metric=files.metric,
            checkpoint=checkpoint,
            resume=files.resume,
            config=settings,
            progress=progress,
        )
    write(tuned, output, {path: report.model_dump_json(indent=1) + "\n" for path in others.values()})
    forget(checkpoint)
    console = show(report, screen)
    if console is not None:
        from onnxprune.render_facts import show_finetuned

        show_finetuned(report, console, str(output or "nothing (--dry-run)"))


@commands.command()
@takes(
    Files,
    Config,
    Screen,
    only=(
        *("calib", "report", "method", "norm", "forward", "ablation", "frl", "fc", "conv", "memory", "align"),
        *("keep", "only", "open", *DATA, "progress", *SHOWN),
    ),
)
def sensitivity(
    model: Model,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A picture: .svg, .png or .pdf.", metavar="FILE")
    ] = None,
    points: Annotated[int, typer.Option(min=1, help="Points a curve.", metavar="INT")] = 8,
    config: ConfigFile = None,
    **options: Any,
) -> None:
    """Error against rate, one layer or group at a time: which of them may become small, and which may not."""
    screen = read_screen(options)
    settings, files = read_options(options, config)
    outputs = {"--output": output, "--report": Path(files.report) if files.report else None}
    planned = {option: path for option, path in outputs.items() if path is not None}
    from onnxprune.curves import sensitivity as look
    from onnxprune.output import require_apart
    from onnxprune.picture import draw, require_picture

    if output is not None:
        require_picture(output)
    require_apart(model, planned, [Path(files.calib)] if files.calib else [])
    with watched(screen) as progress:
        found = look(str(model), calib=files.calib, points=points, config=settings, progress=progress)
    from onnxprune.atomic import write_bytes

    if "--report" in planned:
        write_bytes(planned["--report"], (found.model_dump_json(indent=1) + "\n").encode())
    if output is not None:
        write_bytes(output, draw(found, output.suffix.lower()[1:]))
    console = show(found, screen)
    if console is not None:
        from onnxprune.render_facts import show_sensitivity

        show_sensitivity(found, console)


@commands.command()
@takes(Files, Config, Screen, only=("calib", "train", "eval", "metric", *SWEPT, "progress", *SHOWN))
def sweep(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of what comes out.", metavar="FOLDER")],
    methods: Annotated[
        str,
        typer.Option(help="Methods, each with options of its own behind plus signs: obs,none+fc=as", metavar="LIST"),
    ] = USUAL,
    budgets: Annotated[str, typer.Option(help="Budgets, each met by each method.", metavar="LIST")] = SHARES,
    by: Annotated[str, typer.Option(help="What budgets are of.", metavar="macs|params|speedup|ratio")] = "macs",
    jobs: Annotated[int, typer.Option(min=1, help="Jobs at a time; they share the cores.", metavar="INT")] = 1,
    models: Annotated[bool, typer.Option(help="Keep the pruned models.")] = True,
    config: ConfigFile = None,
    **options: Any,
) -> None:
    """Many methods at many budgets: curves, tables and a page of what each costs. A rerun does what is missing."""
    screen = read_screen(options)
    settings, files = read_options(options, config)
    from onnxprune.sweeping.run import sweep as run

    with watched(screen) as progress:
        found = run(
            str(model),
            output,
            methods=methods,
            budgets=budgets,
            by=by,
            calib=files.calib,
            eval=files.eval,
            metric=files.metric,
            train=files.train,
            jobs=jobs,
            models=models,
            config=settings,
            progress=progress,
        )
    console = show(found, screen)
    if console is not None:
        from onnxprune.render_sweep import show_sweep

        show_sweep(found, console, str(output))
    if found.exit_code:
        raise typer.Exit(found.exit_code)


@commands.command()
@takes(Config, Screen, only=("threads", "providers", "input_shape", "seed", *SHOWN))
def bench(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL.onnx…", help="The first is compared with the others.")],
    batch: Annotated[int | None, typer.Option(min=1, help="Inputs a run; 1 if not given.", metavar="INT")] = None,
    seconds: Annotated[float, typer.Option(min=0, help="How long to measure.", metavar="SECONDS")] = 5.0,
    **options: Any,
) -> None:
    """Time models on onnxruntime, in turn, so that a busy machine slows all of them alike."""
    screen = read_screen(options)
    settings, _ = read_options(options, None)
    from onnxprune.judging import time_models

    timed = time_models([str(model) for model in models], settings, batch, seconds)
    console = show(timed, screen)
    if console is not None:
        from onnxprune.render_facts import show_timings

        show_timings(timed, console)


@commands.command()
@takes(Files, Config, Screen, only=(*JUDGED, *SHOWN))
def compare(
    model: Model,
    other: Annotated[Path, typer.Argument(metavar="OTHER.onnx", help="The model to compare with the first.")],
    **options: Any,
) -> None:
    """How near the outputs of a model stay to those of another, on the same inputs."""
    screen = read_screen(options)
    settings, files = read_options(options, None)
    from onnxprune.judging import compare_models

    compared = compare_models(str(model), str(other), files.calib, files.eval, files.metric, settings)
    console = show(compared, screen)
    if console is not None:
        from onnxprune.render_facts import show_comparison

        show_comparison(compared, console)


@commands.command()
@takes(Screen, only=SHOWN)
def doctor(**options: Any) -> None:
    """What is installed here, which providers really start, and what is wrong."""
    screen = read_screen(options)
    from onnxprune.judging import diagnosis

    found = diagnosis()
    console = show(found, screen)
    if console is not None:
        from onnxprune.render_facts import show_diagnosis

        show_diagnosis(found, console)
    if found.broken:
        raise BadInput("; ".join(found.problems))
