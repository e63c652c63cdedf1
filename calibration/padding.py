"""Which positions of a sequence are real: an attention mask tells, and no layer learns from the rest."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from onnxprune.graph import Array

Real = npt.NDArray[np.bool_]


def real_positions(feeds: Mapping[str, Array]) -> Real | None:
    """(batch, length) true where a mask input holds 1; None where no input is a mask, or it masks nothing.

    A mask is an input of two axes whose name says so, as every exporter of transformers calls it, of zeros and ones.
    """
    for name, array in feeds.items():
        if "mask" in name.lower() and array.ndim == 2 and np.all((array == 0) | (array == 1)):
            real: Real = array.astype(np.bool_)
            return None if real.all() or not real.any() else real
    return None
