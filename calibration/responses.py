"""What some values answer to the calibration inputs: a row an input, the mean over all positions of a channel."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxprune.calibration.source import Source
from onnxprune.graph import Array
from onnxprune.labels import Label
from onnxprune.native import F64
from onnxprune.runtime import open_session, run

MOST_ROWS = 8192
"""Ranks of more rows tell no more."""


def responses(model: ir.Model, wanted: Mapping[str, Label], source: Source) -> dict[str, F64]:
    """(rows, positions of the label) for each value, by name; rows lie along its first axis, other axes are averaged.

    A value whose channels lie on the first axis gives one row a batch. Raises BadInput where the model does not run.
    """
    session = open_session(model, outputs=sorted(wanted))
    found: dict[str, list[F64]] = {name: [] for name in wanted}
    for feeds in source.batches():
        values = run(session, feeds)
        for name, label in wanted.items():
            found[name].append(_rows(values[name], label))
    stacked = {name: np.concatenate(rows) for name, rows in found.items()}
    return {name: rows[:: -(-len(rows) // MOST_ROWS)] for name, rows in stacked.items()}


def _rows(values: Array, label: Label) -> F64:
    others = tuple(axis for axis in range(1, values.ndim) if axis not in label.axes)
    means = values.mean(axis=others, dtype=np.float64)
    return np.asarray(means.reshape(1 if 0 in label.axes else len(means), label.atoms.size))
