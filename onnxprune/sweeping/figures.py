"""The curves: quality against each rate, drawn by matplotlib (an extra, imported when it is needed) as SVG."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import cycle
from typing import TYPE_CHECKING, Any

from onnxprune.errors import BadInput
from onnxprune.sweeping.facts import RATES, Row, Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GRID, PAPER, FRONT = "#1a1c20", "#d9dce1", "#ffffff", "#8a9099"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195")
"""Okabe and Ito's, which those tell apart who do not see all colours; shapes and dashes tell the same again."""
SHAPES, DASHES = "osD^vPX", ("-", "--", ":")
BROAD: dict[str, Any] = {"color": FRONT, "linewidth": 7, "alpha": 0.35}
SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "onnxprune",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
    "font.size": 10.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlesize": 11.5,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "legend.frameon": False,
}


def require_matplotlib() -> None:
    """Raises BadInput, which says what to install, where matplotlib is missing."""
    if find_spec("matplotlib") is None:
        raise BadInput("a sweep draws with matplotlib, which is not installed: pip install 'onnxprune[sweep]'")


@contextmanager
def _settings() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(SETTINGS):
        yield


@_settings()
def panels(sweep: Sweep) -> dict[str, str]:
    """One SVG for each rate that is known, by its name, and the `legend`."""
    drawn = {}
    for rate in _known(sweep):
        figure = _figure(5.2, 3.7)
        _panel(figure.add_subplot(), sweep, rate)
        drawn[rate] = _svg(figure, rate)
    legend = _figure(10.4, 0.34 * -(-(len(_methods(sweep)) + 2) // 5))
    _legend(legend, sweep, "center left", 5)
    return {"legend": _svg(legend, "legend"), **drawn}


@_settings()
def standalone(sweep: Sweep) -> str:
    """All curves in one SVG, on white, for a document."""
    known = _known(sweep)
    rows = -(-len(known) // 2)
    figure = _figure(10.4, 3.7 * rows + 0.6)
    for number, rate in enumerate(known, 1):
        _panel(figure.add_subplot(rows, 2, number), sweep, rate)
    _legend(figure, sweep, "outside upper center", 5)
    return _svg(figure, "sweep")


def _known(sweep: Sweep) -> list[str]:
    return [rate for rate in RATES if any(row.rate(rate) is not None for row in sweep.rows)]


def _methods(sweep: Sweep) -> list[str]:
    return list(dict.fromkeys(row.method for row in sweep.rows))


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _panel(axes: "Axes", sweep: Sweep, rate: str) -> None:
    """The curve of each method, the original, and the front that nobody beats."""
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    front = sorted((_point(sweep, row, rate) for row in sweep.rows if rate in row.front), key=lambda point: point[0])
    whole = 100.0, 100 * (sweep.original.accuracy or 0.0) if sweep.metric else 0.0
    axes.plot(*zip(*front, whole, strict=True), solid_capstyle="round", zorder=1, gid=f"{rate}-front", **BROAD)
    for method, style in _styles(sweep).items():
        points = sorted(_point(sweep, row, rate) for row in sweep.rows if row.method == method and _is_known(row, rate))
        if points:
            axes.plot(*zip(*points, strict=True), zorder=3, gid=f"{rate}-{method}", **style)
    axes.plot(*whole, marker="*", markersize=15, color=INK, linestyle="", zorder=4, gid=f"{rate}-original")
    title = f"{_name(sweep)} by {RATES[rate]}"
    axes.set_title(title[:1].upper() + title[1:], loc="left")
    of = f" at batch {sweep.batch}" if rate == "latency" else ""
    axes.set_xlabel(f"{RATES[rate]}{of}, % of the original")
    axes.set_ylabel(f"{_name(sweep)}, %" if sweep.metric else "difference of the outputs, %\n(less is better)")


def _is_known(row: Row, rate: str) -> bool:
    return not row.failed and row.rate(rate) is not None


def _name(sweep: Sweep) -> str:
    return (sweep.metric or "difference of the outputs").replace("top-1 accuracy", "accuracy")


def _point(sweep: Sweep, row: Row, rate: str) -> tuple[float, float]:
    quality = row.accuracy if sweep.metric else row.relative_error
    return 100 * (row.rate(rate) or 0.0), 100 * (quality or 0.0)


def _styles(sweep: Sweep) -> dict[str, dict[str, Any]]:
    """How each method is drawn, the same in all figures."""
    styles = {}
    for number, (method, colour, shape) in enumerate(zip(_methods(sweep), cycle(COLOURS), cycle(SHAPES), strict=False)):
        dash = DASHES[number // len(COLOURS) % len(DASHES)]
        styles[method] = {"color": colour, "marker": shape, "linestyle": dash, "markersize": 6, "linewidth": 1.8}
    return styles


def _legend(figure: "Figure", sweep: Sweep, place: str, columns: int) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], label=method, **style) for method, style in _styles(sweep).items()]
    star = Line2D([], [], color=INK, marker="*", markersize=13, linestyle="", label="the original")
    front = Line2D([], [], label="Pareto front", **BROAD)
    handles: Sequence[Line2D] = [*lines, star, front]
    figure.legend(
        handles=handles,
        loc=place,
        ncols=min(columns, len(handles)),
        labelcolor=INK,
    )


def _svg(figure: "Figure", name: str) -> str:
    """The figure as SVG, its ids its own: several of them stand on one page."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    text = io.StringIO()
    FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawn = text.getvalue()
    drawn = re.sub(r"\A.*?(?=<svg)", "", drawn, flags=re.DOTALL)  # no address of a document type
    drawn = re.sub(r"\s*<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    return re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{name}-", drawn)
