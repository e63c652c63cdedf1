"""From checked options to parameters of a command, and back; `--config FILE` comes in between."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import typer
from pydantic import BaseModel, ConfigDict

from onnxprune.checking import checked, load_mapping
from onnxprune.config import BUDGETS, Config, option
from onnxprune.errors import BadInput

Command = TypeVar("Command", bound=Callable[..., Any])
LISTS = ("keep", "only", "open", "providers", "input_shape")
SHORT = {"output": "-o"}


class Files(BaseModel):
    """What a run reads and writes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output: str | None = option(None, "Files", "The pruned model.", "FILE")
    calib: str | None = option(
        None, "Files", "Calibration inputs: .npz, .npy or a folder of images; synthetic if not given.", "SOURCE"
    )
    train: str | None = option(
        None,
        "Fine-tuning",
        "Training inputs: as --calib, labels y in an .npz, or a function that returns batches; those of --calib if not "
        "given.",
        "SOURCE",
    )
    resume: bool = option(False, "Fine-tuning", "Go on from the checkpoint that a run left beside its output.")
    eval: str | None = option(None, "Files", "Labelled inputs (x, y) that tell the accuracy.", "FILE.npz")
    metric: str | None = option(None, "Files", "Your own figure of merit of a session.", "MODULE:FUNCTION")
    plan: str | None = option(None, "Files", "Write which channels went, and why.", "FILE.json")
    report: str | None = option(None, "Files", "Write the report.", "FILE.json")
    overwrite: bool = option(False, "Files", "Let the output be the input.")
    dry_run: bool = option(False, "Files", "Do everything, print the tables, write nothing.")


class Screen(BaseModel):
    """What a command shows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    quiet: bool = option(False, "Screen", "Print nothing but errors.")
    json_: bool = option(False, "Screen", "Print JSON to standard output, nothing else.")
    verbose: bool = option(False, "Screen", "Print all that is known: closed groups, layers, seconds.")
    progress: bool | None = option(None, "Screen", "Progress bars, also where the output is no terminal.")
    debug: bool = option(False, "Screen", "Print the traceback of an error.")


def takes(*models: type[BaseModel], only: Iterable[str] | None = None) -> Callable[[Command], Command]:
    """Give a command that has `**options` one parameter for each field of the models, or for those in `only`."""

    def decorate(command: Command) -> Command:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "options"]
        fields = [(n, f) for model in models for n, f in model.model_fields.items() if only is None or n in set(only)]
        parameters = [*own, *(_parameter(name, field) for name, field in fields)]
        target: Any = command
        target.__signature__ = inspect.Signature(parameters)
        target.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate


def _parameter(name: str, field: Any) -> inspect.Parameter:
    said = field.json_schema_extra
    flag = field.annotation in (bool, bool | None)
    kind: Any = bool | None if flag else list[str] | None if name in LISTS else str | None
    info = typer.Option(
        *_names(name, field),
        help=_help(field),
        metavar=None if flag else said["metavar"] or _metavar(field.annotation),
        rich_help_panel=said["panel"],
        show_default=False,
    )
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, info])


def _names(name: str, field: Any) -> list[str]:
    long = "--" + name.strip("_").replace("_", "-")
    if field.default is True or field.annotation == bool | None:
        return [f"{long}/--no-{long[2:]}"]
    return [long, SHORT[name]] if name in SHORT else [long]


def _help(field: Any) -> str:
    shown = field.default if isinstance(field.default, str | int) and not isinstance(field.default, bool) else None
    return str(field.description) + (f" Default: {shown}." if shown is not None else "")


def _metavar(annotation: Any) -> str:
    choices = [part for part in (annotation, *get_args(annotation)) if get_origin(part) is Literal]
    if choices:
        return "|".join(get_args(choices[0]))
    return (
        "INT"
        if annotation is int or int in get_args(annotation)
        else "SHARE"
        if float in get_args(annotation)
        else "TEXT"
    )


def pick(model: type[BaseModel], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given and are fields of the model."""
    return {name: options[name] for name in model.model_fields if options.get(name) not in (None, [], ())}


def read_screen(options: Mapping[str, Any]) -> Screen:
    """What the command line says of the screen."""
    return checked(Screen, pick(Screen, options))


def read_options(options: Mapping[str, Any], file: Path | None) -> tuple[Config, Files]:
    """The options of a run: those of the command line before those of `--config`, and these before the defaults.

    Raises BadInput where the file cannot be read, or an option is unknown or wrong.
    """
    given = pick(Config, options) | pick(Files, options)
    base = {key.replace("-", "_"): value for key, value in load_mapping(file).items()} if file else {}
    if any(name in given for name in BUDGETS):
        base = {key: value for key, value in base.items() if key not in BUDGETS}
    every = base | given
    files = {key: value for key, value in every.items() if key in Files.model_fields}
    try:
        return checked(Config, {k: v for k, v in every.items() if k not in files}), checked(Files, files)
    except BadInput as error:
        raise BadInput(f"{error} (options of {file} among them)" if file else str(error)) from error


def config_text(config: Config, files: Files) -> str:
    """YAML that `--config` reads: every option, and where the data lie; not what was written."""
    import yaml

    inputs = {name: getattr(files, name) for name in ("calib", "train", "eval", "metric")}
    used = {**inputs, **config.model_dump(mode="json")}
    kept = {name: value for name, value in used.items() if value not in (None, {}, [])}
    return str(yaml.safe_dump(kept, sort_keys=False))
