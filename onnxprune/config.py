"""Every option of a run, checked; the command line, `compress` and `--config FILE` all make one of these."""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from onnxprune.errors import BadInput

Align = Literal["auto"] | int


class Config(BaseModel):
    """The options of a run. Shares lie in (0, 1]; at most one of `macs`, `params`, `speedup`, `ratio` is given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str = "obs"
    norm: Literal["l1", "l2"] = "l1"
    forward: bool = False
    rebuild: Literal["lsq", "scale", "none"] = "lsq"
    macs: float | None = Field(None, gt=0, le=1)
    params: float | None = Field(None, gt=0, le=1)
    speedup: float | None = Field(None, ge=1)
    ratio: float | None = Field(None, ge=0, lt=1)
    ratios: dict[str, float] = Field(default_factory=dict)
    allocate: Literal["uniform", "global"] = "global"
    align: Align = "auto"
    keep: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    sample_inputs: bool = False
    samples: int | None = Field(None, ge=1)
    batch_size: int = Field(32, ge=1)
    seed: int = Field(0, ge=0)
    input_shape: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    image_size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layout: Literal["nchw", "nhwc"] | None = None
    channel_order: Literal["rgb", "bgr"] = "rgb"
    max_drop: float | None = Field(None, ge=0)
    threads: int | None = Field(None, ge=1)
    providers: tuple[str, ...] = ()
    measure: bool = True

    @model_validator(mode="after")
    def _one_budget(self) -> "Config":
        given = [name for name in ("macs", "params", "speedup", "ratio") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one budget, not {' and '.join('--' + name for name in given)}")
        for pattern, share in self.ratios.items():
            if not 0 <= share < 1:
                raise ValueError(f"ratios: {pattern!r} has {share}; the share of channels to remove lies in [0, 1)")
        if isinstance(self.align, int) and self.align < 1:
            raise ValueError("align is auto or a whole number from 1")
        return self


def make_config(**options: Any) -> Config:
    """Check options and name each that is wrong in one line.

    Raises BadInput.
    """
    try:
        return Config(**options)
    except ValidationError as error:
        raise BadInput("; ".join(_sentence(detail) for detail in error.errors())) from error


def _sentence(detail: Any) -> str:
    where = "--" + str(detail["loc"][0]).replace("_", "-") if detail["loc"] else ""
    given = f" (got {detail['input']!r})" if detail["loc"] else ""
    return f"{where} {detail['msg'].removeprefix('Value error, ')}{given}".strip()


def load_mapping(path: str | Path) -> dict[str, Any]:
    """Read a YAML or TOML (or JSON, a YAML) file that holds one mapping.

    Raises BadInput where it cannot be read or is something else.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".toml":
            import tomllib

            return tomllib.loads(text)
        found = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError) as error:
        raise BadInput(f"{file} cannot be read as YAML or TOML: {error}") from error
    if not isinstance(found, dict):
        raise BadInput(f"{file} must hold a mapping (name: value), not {type(found).__name__}")
    return found


def save_config(config: Config, path: str | Path) -> None:
    """Write the options that differ from their defaults, as YAML."""
    used = config.model_dump(mode="json", exclude_defaults=True)
    Path(path).write_text(yaml.safe_dump(used, sort_keys=True) or "{}\n", encoding="utf-8")
