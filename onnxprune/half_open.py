"""Gates that end neither shut nor open: what they let through goes into the weights that read their channels."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxprune.dependency import Keep
from onnxprune.native import F64
from onnxprune.passes.scale_readers import scale_readers
from onnxprune.prepare import Prepared


def fold_half_open(
    prepared: Prepared, slim: ir.Model, keep: Keep, gates: Mapping[str, F64]
) -> tuple[ir.Model, tuple[str, ...]]:
    """The slim model behind its half-open gates, and what the report says of them; `gates` (width,) by group.

    A gate that is shut and whose channel stays all the same, for the budget has room, counts as open.
    """
    factors, folded = np.ones(prepared.analysis.units + 1), 0
    for group in prepared.groups:
        values = gates.get(group.name, np.ones(group.width))
        values = np.where(group.kept(keep) & (values > 0), values, 1.0)
        factors[group.units] *= values[group.member]
        folded += int(np.sum(values < 1))
    model, without = scale_readers(prepared.analysis, slim, keep, factors, prepared.frozen)
    said = f"{folded} half-open gates of channels that stay went into the weights behind them."
    if not without:
        return model, (said,) if folded else ()
    shown = ", ".join(without[:3]) + (f" and {len(without) - 3} more" if len(without) > 3 else "")
    return model, (said, f"{shown} took no gate in, for want of a weight that may change: open there.")
