"""Reports as tables and sentences for a terminal."""

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from onnxprune.config import BUDGETS
from onnxprune.report import (
    Accuracy,
    ClosedReport,
    EpochReport,
    Fidelity,
    HeadReport,
    JointReport,
    Latency,
    Report,
    RoundReport,
    Totals,
    Tuned,
)

LEAST_WIDTH = 120


def screen() -> Console:
    """Standard output; wide enough for a table where it is no terminal."""
    console = Console(markup=False, highlight=False, emoji=False)
    return console if console.is_terminal else Console(
        markup=False, highlight=False, emoji=False, width=max(console.width, LEAST_WIDTH)
    )  # fmt: skip


def show_report(report: Report, console: Console, verbose: bool, wrote: str) -> None:
    """Print what a run did: the groups, the totals, and a line for everything else; `wrote` names the output."""
    if report.groups or not (report.products or report.codes):
        console.print(_groups(report))
    if report.products:
        console.print(_products(report))
    if report.codes:
        console.print(_codes(report))
    console.print(_totals(report))
    if verbose:
        console.print(_layers(report))
    print_lines(console, [*_lines(report, verbose), *(("note", note) for note in report.notes), ("wrote", wrote)])


def print_lines(console: Console, lines: Sequence[tuple[str, str]]) -> None:
    """Print labelled sentences, the labels flush right; they wrap where the terminal does."""
    width = max((len(label) for label, _ in lines), default=0)
    for label, text in lines:
        console.print(f"{label:>{width}}  {text}", soft_wrap=True, style="yellow" if label == "note" else None)


def table(*columns: str, left: int = 1) -> Table:
    """An empty table: the first `left` columns are text, the others numbers."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        made.add_column(column, justify="left" if number < left else "right", overflow="fold")
    return made


def quantity(number: float) -> str:
    """A count with three digits and a unit: 40.8 M."""
    for unit in ("", " k", " M"):
        if abs(number) < 999.5:
            return f"{number:.3g}{unit}" if unit else f"{number:.0f}"
        number /= 1000
    return f"{number:.3g} G" if abs(number) < 999.5 else f"{number:,.0f} G"


def share(number: float) -> str:
    """A share as percent, with a digit more where it is near 0 or 1."""
    return f"{100 * number:.2f} %" if 0 < abs(number) < 0.01 else f"{100 * number:.1f} %"


def _groups(report: Report) -> Table:
    made = table("group", "width", "kept", "removed", "method", "error", "stays whole because")
    made.columns[-1].justify = made.columns[-3].justify = "left"
    for group in report.groups:
        error = "" if group.error is None or group.kept == group.width else f"{group.error:.3f}"
        removed = share(1 - group.kept / group.width) if group.kept < group.width else ""
        made.add_row(group.name, str(group.width), str(group.kept), removed, group.method, error, group.reason)
    return made


def _products(report: Report) -> Table:
    made = table("layer", "inputs", "outputs", "rank", "method", "kind", "error")
    for one in report.products:
        error = "" if one.error is None else f"{one.error:.3f}"
        made.add_row(one.name, str(one.inputs), str(one.outputs), str(one.rank), one.method, one.kind, error)
    return made


def _codes(report: Report) -> Table:
    made = table("layer", "method", "weights a byte", "bytes before", "after", "error", "stays because")
    made.columns[1].justify = made.columns[-1].justify = "left"
    for one in report.codes:
        error = "" if one.error is None else f"{one.error:.3f}"
        sizes = quantity(one.before), quantity(one.after)
        made.add_row(one.name, one.method, str(one.segment), *sizes, error, one.reason)
    return made


def _totals(report: Report) -> Table:
    made = totals_table(report.before, report.after)
    if report.memory is not None:
        for label, name in (("memory of a session", "session"), ("most while it loads", "peak")):
            old, new = (getattr(one, name) for one in report.memory)
            made.add_row(label, quantity(old), quantity(new), share(new / max(old, 1)))
    for one in report.latency:
        made.add_row(*_latency(one))
    if report.accuracy is not None:
        made.add_row(*_accuracy(report.accuracy))
    return made


def totals_table(before: Totals, after: Totals) -> Table:
    """What a model costs, before and after."""
    made = table("", "before", "after", "after / before")
    for name, label in (("macs", "multiply–adds"), ("params", "parameters"), ("bytes", "bytes")):
        old, new = getattr(before, name), getattr(after, name)
        made.add_row(label, quantity(old), quantity(new), share(new / max(old, 1)))
    return made


def _latency(one: Latency) -> tuple[str, ...]:
    threads = "" if one.threads is None else f", {one.threads} thread" + "s" * (one.threads > 1)
    speedup = f"{one.speedup:.2f}× as fast ({one.speedup_p10:.2f}–{one.speedup_p90:.2f})"
    return f"milliseconds, batch {one.batch}{threads}", f"{one.before_ms:.3f}", f"{one.after_ms:.3f}", speedup


def _accuracy(one: Accuracy) -> tuple[str, ...]:
    return one.metric, f"{one.before:.4f}", f"{one.after:.4f}", f"{one.after - one.before:+.4f}"


def _layers(report: Report) -> Table:
    made = table("rebuilt layer", "error before", "error after")
    for layer in report.layers:
        made.add_row(layer.name, f"{layer.before:.4f}", f"{layer.after:.4f}")
    return made


def _lines(report: Report, verbose: bool) -> Iterable[tuple[str, str]]:
    budget = report.budget
    if budget.kind in ("macs", "params"):
        asked = "asked for" if any(getattr(report.config, name) is not None for name in BUDGETS) else "by default"
        yield "budget", f"{budget.kind} {budget.target:.3g} {asked}, {budget.reached:.4f} reached"
    elif budget.kind == "ranks":
        yield "budget", f"ranks as asked for: {share(budget.reached)} of the parameters stay"
    elif budget.kind == "codes":
        yield "budget", f"none: {share(budget.reached)} of the bytes stay"
    else:
        yield "budget", f"{budget.kind}: {share(budget.reached)} of the channels removed"
    whole = all(group.kept == group.width for group in report.groups)
    rest = report.heads or report.products or report.codes
    bare = budget.kind in ("plan", "codes") or (whole and rest)
    yield "allocation", report.allocation + f"; widths in multiples of {report.align} where they can be" * (not bare)
    if whole and not rest:
        yield "note", "Nothing was removed: the model meets the budget as it is."
    if report.calibration is not None:
        yield "data", report.calibration.description
        yield from (("guessed", guess) for guess in report.calibration.guesses)
    yield from (("new head", head_text(head)) for head in report.heads)
    yield from (round_line(one) for one in report.rounds)
    if report.joint is not None:
        yield _joint(report.joint)
    if report.tuned is not None:
        yield from tuned_lines(report.tuned)
    if report.fidelity is not None:
        yield "fidelity", fidelity_text(report.fidelity)
    yield from closed_lines(report.closed, verbose)
    yield "proof", f"differs from the masked original by {report.proof:.1e} of its largest output"
    if verbose:
        yield "seconds", ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in report.seconds.items())


def head_text(head: HeadReport) -> str:
    """One sentence on a new head."""
    what = f"{', '.join(head.outputs)}: one layer of {head.numbers} on the means of the {head.channels} channels of "
    if head.ridge is None:
        return f"{what}{head.source}, as the plan has it"
    agreement = "" if head.same_class is None else f"same class for {share(head.same_class)}, "
    missed = "" if head.error is None else f"; {agreement}misses {share(head.error)} of the variance of held-out ones"
    return f"{what}{head.source}, solved on {head.samples} inputs{missed}"


def _joint(joint: JointReport) -> tuple[str, str]:
    """What the joint training of factors came to."""
    kept = f"epoch {joint.best} of {len(joint.epochs)} kept" if joint.best else "the start kept"
    gain = f"squared error of the outputs {share(joint.before)} of their variance before, {share(joint.after)} after"
    inputs = f"{joint.samples} to learn from, {joint.judges} to judge with"
    return "joint", f"{joint.layers} layers: {gain}; {kept}, rate {joint.rate:g}; {inputs}"


def fidelity_text(fidelity: Fidelity) -> str:
    """One sentence on how near two models are."""
    agreement = fidelity.top1_agreement
    same = "" if agreement is None else f"same class for {share(agreement)}, "
    inputs = "held-out inputs" if fidelity.held_out else "inputs (none were held out)"
    return f"{same}outputs differ by {share(fidelity.relative_error)}, on {fidelity.samples} {inputs}"


def round_line(one: RoundReport) -> tuple[str, str]:
    """How far a cut went, and how its fine-tune ended."""
    kept = [epoch for epoch in one.tuned.epochs if epoch.epoch == one.tuned.best] if one.tuned is not None else []
    learned = f"; loss {kept[0].loss:.4f}{_judged(kept[0])}" if kept else "; no epoch was better than the start"
    which = f"{one.group}: " if one.group else ""
    left = f"{which}{share(one.macs)} of the multiply–adds, {share(one.params)} of the parameters are left"
    return f"round {one.name}", left + learned


def tuned_lines(tuned: Tuned) -> Iterable[tuple[str, str]]:
    """What a fine-tune was given, and one line an epoch."""
    kinds = ", ".join(sorted(set(tuned.loss.values())))
    labels = "labels" if tuned.labels else "no labels"
    counts = f"{tuned.samples} to learn from ({labels}), {tuned.judges} to judge with"
    yield "trained", f"{tuned.description}: {counts}; {kinds}"
    for epoch in tuned.epochs:
        kept = " (kept)" if epoch.epoch == tuned.best else ""
        rate = f", at a rate of {epoch.rate:g}" if epoch.rate != tuned.epochs[0].rate else ""
        yield f"epoch {epoch.epoch}", f"loss {epoch.loss:.4f}{_judged(epoch)}{rate}{kept}"
    if not tuned.best:
        yield "note", "No epoch was better than the start, so nothing of the fine-tune was kept."


def _judged(epoch: EpochReport) -> str:
    if epoch.validation is None:
        return ""
    near = (
        f", same class for {share(epoch.same_class)}"
        if epoch.same_class is not None
        else ""
        if epoch.difference is None
        else f", outputs differ by {share(epoch.difference)}"
    )
    return f"; on those to judge with {epoch.validation:.4f}{near}"


def closed_lines(groups: Sequence[ClosedReport], verbose: bool) -> Iterable[tuple[str, str]]:
    """What cannot go and why: one line each, or their most common reasons in one line."""
    if verbose:
        yield from (("closed", f"{c.name} ({c.width}): {c.reason}") for c in groups)
    elif groups:
        reasons = Counter(closed.reason for closed in groups)
        told = [f"{reason} ({count}×)" if count > 1 else reason for reason, count in reasons.most_common(3)]
        more = f"; and {len(reasons) - 3} more reasons" if len(reasons) > 3 else ""
        plural = "s" * (len(groups) > 1)
        yield "closed", f"{len(groups)} more group{plural} cannot go: {'; '.join(told)}{more} (--verbose lists them)"
