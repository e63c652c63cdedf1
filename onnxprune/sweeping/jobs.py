"""The grid of a sweep: methods with options of their own, times budgets."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from onnxprune.config import BUDGETS, Config, make_config
from onnxprune.errors import BadInput

By = Literal["macs", "params", "speedup", "ratio"]
Methods = str | Iterable[str] | Mapping[str, Mapping[str, Any]]
SET = (*BUDGETS, "measure", "threads", "providers")
"""Options that no method may have of its own: the grid sets them, or they are about the timing of all models."""
USUAL, SHARES = "obs,lasso,thinet,magnitude", "0.7,0.5,0.35,0.25"


@dataclass(frozen=True)
class Job:
    """One method at one budget; `label` is how the method was written."""

    label: str
    budget: float
    config: Config


def make_jobs(methods: Methods, budgets: str | Sequence[float], by: str, options: Mapping[str, Any]) -> list[Job]:
    """All methods at all budgets, the budgets of a method behind each other; `options` hold for every job.

    Raises BadInput, which names the method, where an option of one is unknown or wrong.
    """
    if by not in get_args(By):
        raise BadInput(f"--by {by}: budgets are of {', '.join(get_args(By))}")
    kept = {name: value for name, value in options.items() if name not in (*BUDGETS, "method")}
    shares, named = _budgets(budgets), _methods(methods)
    cells = [(label, own, share) for label, own in named.items() for share in shares]
    return [Job(label, share, _config(label, {**kept, **own, by: share})) for label, own, share in cells]


def _budgets(budgets: str | Sequence[float]) -> list[float]:
    parts: Sequence[Any] = budgets.split(",") if isinstance(budgets, str) else budgets
    try:
        found = list(dict.fromkeys(float(part) for part in parts))
    except (TypeError, ValueError) as error:
        raise BadInput(f"--budgets {budgets!r} should be numbers, as 0.7,0.5,0.35,0.25") from error
    if not found:
        raise BadInput("--budgets names none")
    return found


def _methods(methods: Methods) -> dict[str, dict[str, Any]]:
    """The options that each label stands for: `obs`, `none+fc=as`, `thinet+forward`."""
    if isinstance(methods, Mapping):
        named = {str(label): dict(own) for label, own in methods.items()}
    else:
        labels = methods.split(",") if isinstance(methods, str) else list(methods)
        named = {label.strip(): _read(label.strip()) for label in labels if label.strip()}
    if not named:
        raise BadInput("--methods names none")
    for label, own in named.items():
        if wrong := [name for name in own if name in SET]:
            raise BadInput(f"method {label!r} of the sweep cannot have --{wrong[0]} of its own")
    return named


def _read(label: str) -> dict[str, Any]:
    method, *rest = label.split("+")
    found: dict[str, Any] = {"method": method}
    for part in rest:
        name, equals, value = part.partition("=")
        found[name.strip().replace("-", "_")] = value if equals else True
    return found


def _config(label: str, options: Mapping[str, Any]) -> Config:
    from onnxprune.criteria import lookup  # the command line's --help should not wait for numpy

    try:
        config = make_config(**options)
        lookup(config.method)
    except BadInput as error:
        raise BadInput(f"method {label!r} of the sweep: {error}") from error
    return config
