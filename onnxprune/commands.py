"""The subcommands: inspect, apply, bench, compare, doctor."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxprune.config import Config
from onnxprune.errors import BadInput
from onnxprune.options import Files, Screen, config_text, read_options, read_screen, takes
from onnxprune.showing import show_result, watched
