"""The classes of calibration inputs, where their file has them."""

from onnxprune.calibration.arrays import ArraySource
from onnxprune.calibration.source import Source
from onnxprune.calibration.window import Window
from onnxprune.graph import Array


def labels_of(source: Source) -> Array | None:
    """(samples,) the class of each sample, in the order of the batches; None where they are not known."""
    if isinstance(source, Window):
        whole = labels_of(source.source)
        return None if whole is None else whole[source.start : source.stop]
    if isinstance(source, ArraySource) and source.labels is not None:
        labels: Array = source.labels[source.rows]
        return labels
    return None
