"""Options as text or in files, and what is said of those that are wrong."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from onnxprune.errors import BadInput

Model = TypeVar("Model", bound=BaseModel)


def number_of_bytes(text: str) -> int:
    """4GB, 512 MB. Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)B?", text.strip().upper())
    if found is None:
        raise ValueError(f"{text!r} should be a number of bytes, as 4GB or 512MB")
    return int(float(found[1]) * 1000 ** " KMGT".index(found[2] or " "))


def named_shape(text: str) -> tuple[str, list[str]]:
    """name=1,3,224,224. Raises ValueError."""
    name, equals, sizes = str(text).rpartition("=")
    if not equals or not name:
        raise ValueError(f"{text!r} should be name=1,3,224,224")
    return name, sizes.replace("x", ",").split(",")


def checked(model: type[Model], options: Mapping[str, Any]) -> Model:
    """Make a model of options.

    Raises BadInput: one line that names each wrong option, and the nearest ones to an unknown.
    """
    try:
        return model(**options)
    except ValidationError as error:
        first: dict[str, Any] = {}
        for detail in error.errors():
            first.setdefault(str(detail["loc"][:1]), detail)
        raise BadInput("; ".join(_sentence(detail, list(model.model_fields)) for detail in first.values())) from error


def _sentence(detail: Any, known: list[str]) -> str:
    if not detail["loc"]:
        return str(detail["msg"].removeprefix("Value error, "))
    name = str(detail["loc"][0])
    if detail["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        return f"there is no option {name!r}" + (f": did you mean {' or '.join(nearest)}?" if nearest else "")
    told = detail["msg"].removeprefix("Value error, ").replace("Input should", "should")
    return f"--{name.replace('_', '-')} {told}, got {detail['input']!r}"


def load_mapping(path: str | Path) -> dict[str, Any]:
    """Read a YAML or TOML (or JSON, a YAML) file that holds one mapping.

    Raises BadInput where it cannot be read or is something else.
    """
    import tomllib

    import yaml

    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
        found = tomllib.loads(text) if file.suffix == ".toml" else yaml.safe_load(text)
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise BadInput(f"{file} cannot be read as YAML or TOML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise BadInput(f"{file} must hold a mapping (name: value), not {type(found).__name__}")
    return found
