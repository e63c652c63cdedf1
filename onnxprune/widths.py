"""Widths that run well: multiples of what the runtime computes at once."""

from collections.abc import Sequence

import numpy as np

from onnxprune.grouping import Group


def runtime_block() -> int:
    """Channels that onnxruntime's CPU kernels compute at once here: 16 with AVX-512, else 8."""
    from numpy._core import _multiarray_umath  # type: ignore[attr-defined]

    features = getattr(_multiarray_umath, "__cpu_features__", {})
    return 16 if features.get("AVX512F", False) else 8


def allowed_widths(group: Group, align: int) -> list[int]:
    """The widths a group may take, ascending, its own always among them.

    Multiples of the block from one block on; below that half and quarter blocks, which still save input channels
    (measured: docs/decisions). Each row of a balanced group keeps equally many.
    """
    lanes = channels_per_unit(group)
    rows = group.row_count
    fine = [align // d for d in (4, 2) if align % d == 0 and align // d >= 4]
    widths = {w for w in range(rows, group.width + 1, rows) if _aligned(w * lanes, align, fine)}
    return sorted(widths | {group.width})


def _aligned(channels: int, align: int, fine: Sequence[int]) -> bool:
    return channels % align == 0 if channels >= align else channels in fine


def channels_per_unit(group: Group) -> int:
    """How many channels of its writer one unit stands for, at the most."""
    counts = [np.count_nonzero(np.isin(w.outputs, group.units)) / group.width for w in group.writers]
    return max(1, round(max(counts, default=1)))


def nearest_width(widths: Sequence[int], wanted: float) -> int:
    """The allowed width nearest to the wanted one, the larger of two."""
    return min(reversed(widths), key=lambda w: abs(w - wanted))
