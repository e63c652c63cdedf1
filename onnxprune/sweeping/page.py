"""One HTML page that holds everything: curves inline, tables, nothing from elsewhere; light or dark."""

import re
from html import escape

from onnxprune.sweeping.facts import RATES, Original, Row, Sweep
from onnxprune.sweeping.figures import COLOURS, FRONT, GRID, INK, PAPER, panels

DARK = ("#4ba6e3", "#ff8b3d", "#2cc79b", "#e6a3c6", "#f2b632", "#8ad0f5", "#b08fd0")

STYLE = """
:root { color-scheme: light dark; --ink: #1a1c20; --soft: #5c636e; --grid: #d9dce1; --paper: #ffffff; --card: #f6f7f9;
  --front: #8a9099; --mark: #e3f1e9; LIGHT }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaee; --soft: #a3abb8; --grid: #3a3f48; --paper: #15171b; --card: #1d2026; --front: #9aa2ae;
    --mark: #1f3a2e; DARK }
}
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; overflow-wrap: anywhere }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem }
p { margin: .25rem 0; color: var(--soft); max-width: 60rem }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem }
.figure { background: var(--card); border-radius: .6rem; padding: .75rem; margin: 0 }
svg { display: block; width: 100%; height: auto }
.legend svg { max-width: 62rem; margin: .25rem 0 .75rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .7rem; text-align: right; border-bottom: 1px solid var(--grid); white-space: nowrap }
th { color: var(--soft); font-weight: 600; vertical-align: bottom }
th:first-child, td:first-child, td.text, th.text { text-align: left }
td.why { text-align: left; white-space: normal; color: var(--soft) }
tr.front td { background: var(--mark) }
a { color: inherit }
.dot { display: inline-block; width: .65rem; height: .65rem; border-radius: 50%; margin-right: .45rem }
"""


def page(sweep: Sweep) -> str:
    """The page; it opens without a network."""
    drawn = {name: _coloured(svg) for name, svg in panels(sweep).items()}
    legend = drawn.pop("legend")
    figures = "\n".join(f'<figure class="figure" id="{rate}">{svg}</figure>' for rate, svg in drawn.items())
    title = f"onnxprune sweep: {escape(_short(sweep.model))}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_style()}</style>
</head>
<body>
<h1>{title}</h1>
{_facts(sweep)}
<h2>What each method costs</h2>
<div class="legend">{legend}</div>
<div class="figures">
{figures}
</div>
<h2>The best model at each budget</h2>
{_table(sweep, [sweep.rows[number] for number in sweep.best], "best")}
<h2>All models</h2>
<p>Shaded: on the Pareto front by at least one rate, that is, no other model is both as small and as good.</p>
{_table(sweep, list(sweep.rows), "all")}
</body>
</html>
"""


def _short(path: str) -> str:
    return path.replace("\\", "/").rsplit("/", 1)[-1]


def _facts(sweep: Sweep) -> str:
    timed = ""
    if sweep.original.milliseconds is not None:
        threads = f"{sweep.threads} threads" if sweep.threads else "the runtime's choice of threads"
        timed = f" Latency: all models in turn in one run on onnxruntime, batch {sweep.batch}, {threads}."
    judged = sweep.metric or f"the difference of the outputs on {sweep.judged} inputs"
    said = f"Calibrated on {sweep.data}. Judged by {judged}. Budgets are {_budgets(sweep)}.{timed}"
    return f"<p>{escape(said)} onnxprune {escape(sweep.onnxprune)}.</p>"


def _budgets(sweep: Sweep) -> str:
    return {
        "macs": "shares of the multiply–adds that stay",
        "params": "shares of the parameters that stay",
        "speedup": "how many times fewer multiply–adds",
    }.get(sweep.by, "shares of the channels that go from every group")


def _table(sweep: Sweep, rows: list[Row], name: str) -> str:
    quality = sweep.metric or "difference of the outputs"
    heads = ["method", "budget", quality, *RATES.values(), "milliseconds", "model"]
    head = "".join(f'<th class="text">{escape(h)}</th>' if h == "model" else f"<th>{escape(h)}</th>" for h in heads)
    body = "\n".join([_whole(sweep.original, sweep), *(_line(sweep, row) for row in rows)])
    inner = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>"
    return f'<div class="scroll"><table id="{name}">{inner}</table></div>'


def _whole(original: Original, sweep: Sweep) -> str:
    quality = _percent(original.accuracy) if sweep.metric else _percent(0.0)
    milliseconds = "" if original.milliseconds is None else f"{original.milliseconds:.3g}"
    latency = "" if original.milliseconds is None else _percent(1.0)
    cells = ["the original", "", quality, *[_percent(1.0)] * 3, latency, milliseconds, ""]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _line(sweep: Sweep, row: Row) -> str:
    number = list(dict.fromkeys(one.method for one in sweep.rows)).index(row.method) % len(COLOURS)
    method = f'<span class="dot" style="background: var(--c{number})"></span>{escape(row.method)}'
    if row.failed:
        return (
            f"<tr><td>{method}</td><td>{row.budget:g}</td>"
            f'<td class="why" colspan="{len(RATES) + 3}">{escape(row.failed)}</td></tr>'
        )
    quality = row.accuracy if sweep.metric else row.relative_error
    shares = [_percent(row.rate(rate)) for rate in RATES]
    milliseconds = "" if row.milliseconds is None else f"{row.milliseconds:.3g}"
    link = f'<a href="{escape(row.file)}">{escape(_short(row.file))}</a>' if row.file else ""
    cells = "".join(
        f"<td>{cell}</td>" for cell in (method, f"{row.budget:g}", _percent(quality), *shares, milliseconds)
    )
    return f'<tr{" class=front" if row.front else ""}>{cells}<td class="text">{link}</td></tr>'


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _style() -> str:
    light, dark = (
        " ".join(f"--c{number}: {colour};" for number, colour in enumerate(colours)) for colours in (COLOURS, DARK)
    )
    return STYLE.replace("LIGHT", light).replace("DARK", dark)


def _coloured(svg: str) -> str:
    """The drawing in the page's own colours, which change with light and dark."""
    named = {INK: "ink", GRID: "grid", FRONT: "front", **{colour: f"c{i}" for i, colour in enumerate(COLOURS)}}
    for colour, name in named.items():
        svg = svg.replace(colour, f"var(--{name})")
    svg = svg.replace(f"fill: {PAPER}", "fill: none")
    return re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", svg))
