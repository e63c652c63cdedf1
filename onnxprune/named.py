"""Functions of the user's, named as module:function."""

import importlib
import re
from collections.abc import Callable
from typing import Any

from onnxprune.errors import BadInput

NAMED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_named(text: str) -> bool:
    """Whether a text has the form module:function."""
    return NAMED.fullmatch(text) is not None


def load_function(text: str, option: str) -> Callable[..., Any]:
    """The function that `module:function` names.

    Raises BadInput, which names the option, where it cannot be imported.
    """
    module, _, name = text.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadInput(f"{option} {text!r} cannot be imported ({error}); write module:function") from error
    if not callable(found):
        raise BadInput(f"{option} {text!r} is not a function")
    return found  # type: ignore[no-any-return]
