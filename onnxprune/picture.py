"""Curves as a picture: what the outputs lose, against the weights that stay; one line a layer. Needs matplotlib."""

import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from onnxprune.errors import BadInput
from onnxprune.report import Curve, Sensitivity

KINDS = {"channels": "channels removed", "rank": "products of low rank", "codes": "weights in codes"}
FORMATS = (".svg", ".png", ".pdf")
LEAST = 1e-6
"""Smaller errors are drawn as this: the axis is logarithmic."""
STYLES = ("-", "--", ":", "-.")


def require_picture(path: Path) -> None:
    """Find out before the work whether a picture can be drawn.

    Raises BadInput where matplotlib is missing, or the name tells no format.
    """
    if find_spec("matplotlib") is None:
        raise BadInput("a picture needs matplotlib, which is not installed: pip install 'onnxprune[sweep]'")
    if path.suffix.lower() not in FORMATS:
        raise BadInput(f"--output {path} should end in {', '.join(FORMATS)}")


def draw(found: Sensitivity, format: str) -> bytes:
    """A panel for each kind of curve; every line has the name of its layer or group as its id and in the legend."""
    import matplotlib
    from matplotlib.figure import Figure

    kinds = [kind for kind in KINDS if any(curve.kind == kind for curve in found.curves)]
    # The same bits each time: no date, and ids that are not drawn by chance.
    with matplotlib.rc_context({"svg.hashsalt": "onnxprune", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8.5 * len(kinds), 5.5), layout="constrained")
        for place, kind in enumerate(kinds, 1):
            _panel(figure.add_subplot(1, len(kinds), place), [one for one in found.curves if one.kind == kind], kind)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=format, metadata={"Date": None} if format == "svg" else None)
    return buffer.getvalue()


def _panel(axes: Any, curves: list[Curve], kind: str) -> None:
    for number, curve in enumerate(curves):
        rates = [100 * point.rate for point in curve.points]
        errors = [100 * max(point.output_error, LEAST) for point in curve.points]
        label = curve.name.lstrip("_") or curve.name  # a leading one would hide it from the legend
        style = STYLES[number // 10 % len(STYLES)]
        (line,) = axes.plot(rates, errors, style, marker="o", markersize=3, linewidth=1.2, label=label)
        line.set_gid(f"{kind}:{curve.name}")
    if len(set(heights := [y for line in axes.lines for y in line.get_ydata()])) == 1:
        axes.set_ylim(heights[0] / 10, heights[0] * 10)  # what does not vary gives no scale by itself
    axes.set(xscale="log", yscale="log", title=f"{KINDS[kind]} ({curves[0].method})")
    axes.set(xlabel="weights that stay, %", ylabel="squared error of the outputs, % of their variance")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.grid(visible=True, which="both", linewidth=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
