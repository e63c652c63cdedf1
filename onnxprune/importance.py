"""Scores of units from the whole graph, for the criteria that cannot judge a group by itself."""

from collections.abc import Callable, Mapping

from onnxprune.config import Config
from onnxprune.native import F64
from onnxprune.nisp import nisp
from onnxprune.prepare import Data, Prepared
from onnxprune.progress import Tick

Scorer = Callable[[Prepared, Data, Config, Tick], Mapping[str, F64]]
"""Gives (width,) scores, higher is worth keeping, by group name; a group without any is ranked by magnitude."""

SCORERS: dict[str, Scorer] = {"nisp": nisp}
"""By criterion; each of them has `criteria.scored.select` in the table of criteria."""
