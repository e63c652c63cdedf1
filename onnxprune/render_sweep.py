"""A sweep for a terminal: the best model at each budget, and what failed."""

from rich.console import Console

from onnxprune.render import print_lines, share, table
from onnxprune.sweeping.facts import RATES, Sweep


def show_sweep(found: Sweep, console: Console, folder: str) -> None:
    """Print the table and where the page lies."""
    quality = found.metric or "difference"
    made = table("budget", "best method", quality, *RATES.values(), left=2)
    whole = found.original.accuracy if found.metric else 0.0
    made.add_row("", "the original", _share(whole), *[_share(1.0)] * len(RATES))
    for row in (found.rows[number] for number in found.best):
        value = row.accuracy if found.metric else row.relative_error
        made.add_row(f"{row.budget:g}", row.method, _share(value), *(_share(row.rate(rate)) for rate in RATES))
    console.print(made)
    failed = [("failed", f"{row.method} at {row.budget:g}: {row.failed}") for row in found.rows if row.failed]
    print_lines(console, [*failed, ("wrote", f"{folder}/index.html, sweep.csv, sweep.json, sweep.svg")])


def _share(value: float | None) -> str:
    return "" if value is None else share(value)
