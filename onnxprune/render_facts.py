"""What `inspect`, `fold`, `finetune`, `sensitivity`, `bench`, `compare` and `doctor` tell, for a terminal."""

from collections.abc import Sequence

from rich.console import Console

from onnxprune.folding import FoldReport
from onnxprune.inspection import InputFacts, Inspection
from onnxprune.judging import Comparison, Diagnosed, Timings
from onnxprune.render import (
    closed_lines,
    fidelity_text,
    print_lines,
    quantity,
    share,
    table,
    totals_table,
    tuned_lines,
)
from onnxprune.report import Finetuned, Sensitivity

MOST = 4
"""Lines of one kind that are shown unless all are asked for."""


def show_inspection(found: Inspection, console: Console, verbose: bool) -> None:
    """Print the groups and what is closed; where a node was asked about, the answer alone."""
    if found.why:
        print_lines(console, [("why", sentence) for sentence in found.why])
        return
    made = table("group", "width", "in rows of", "writers", "readers", "multiply–adds", "parameters")
    for group in found.groups:
        rows = "" if group.rows == 1 else str(group.width // group.rows)
        counts = (str(group.width), rows, str(len(group.writers)), str(len(group.readers)))
        made.add_row(group.name, *counts, share(group.macs_share), share(group.params_share))
    console.print(made)
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in found.opsets.items())
    totals = found.totals
    lines = [
        ("model", f"{found.nodes} nodes, opset {opsets}, IR {found.ir_version}, {found.producer or 'no producer'}"),
        *(("input", _shape(one)) for one in found.inputs),
        *(("output", _shape(one)) for one in found.outputs),
        ("cost", f"{quantity(totals.macs)} multiply–adds a sample, {quantity(totals.params)} parameters, "
                 f"{quantity(totals.bytes)} bytes"),
        ("least", f"{share(found.least_macs)} of the multiply–adds and {share(found.least_params)} of the parameters "
                  "remain with half of every group gone"),
        *(("guessed", guess) for guess in found.guesses),
        *closed_lines(found.closed, True),
    ]  # fmt: skip
    if verbose:
        lines += [("names", f"{group.name}: {', '.join(group.names)}") for group in found.groups]
    print_lines(console, lines)


def _shape(one: InputFacts) -> str:
    dims = (
        "of unknown shape" if one.shape is None else f"({', '.join('?' if d is None else str(d) for d in one.shape)})"
    )
    return f"{one.name}: {one.dtype} {dims}"


def show_folding(report: FoldReport, console: Console, verbose: bool, wrote: str) -> None:
    """Print what was folded, what stays and why, and what it saves; `wrote` names the output."""
    if report.groups:
        made = table("group", "width", "kept", "dead", "constant")
        for group in report.groups:
            counts = group.width, group.width - group.dead - group.constant, group.dead, group.constant
            made.add_row(group.name, *map(str, counts))
        console.print(made)
    console.print(totals_table(report.before, report.after))
    gates = sorted(report.gates, key=lambda gate: gate.factors == 1)  # those of channels first
    lines = [
        *_several("gate", [f"{gate.name} into {', '.join(gate.into)}" for gate in gates if gate.into], verbose),
        *_several("norm", [f"the one behind {name} into its weights" for name in report.norms], verbose),
        *_several("constant", [f"{name} for all inputs" for name in report.constants], verbose),
        *_several("dropped", [f"{name}, which changed nothing" for name in report.dropped], verbose),
        *_several("stays", [f"gate {gate.name}: {gate.reason}" for gate in gates if not gate.into], verbose),
        *_several("stays", [f"{one.name} ({one.width}): {one.reason}" for one in report.stuck], verbose),
        *(("guessed", guess) for guess in report.guesses),
        *(("note", note) for note in report.notes),
        ("proof", f"differs from the original by {report.proof:.1e} of its largest output"),
        ("wrote", wrote),
    ]
    print_lines(console, lines)


def _several(label: str, sentences: Sequence[str], verbose: bool) -> list[tuple[str, str]]:
    """A line for each; of many only the first, unless all are asked for."""
    shown = sentences if verbose else sentences[:MOST]
    more = [] if len(shown) == len(sentences) else [(label, f"and {len(sentences) - MOST} more (--verbose lists them)")]
    return [*((label, sentence) for sentence in shown), *more]


def show_timings(timed: Timings, console: Console) -> None:
    """Print milliseconds and ratios."""
    made = table("model", "median ms", "p10", "p90", "times as fast", "p10–p90")
    for one in timed.models:
        spread = f"{one.speedup_p10:.2f}–{one.speedup_p90:.2f}"
        made.add_row(
            one.name, f"{one.median_ms:.3f}", f"{one.p10_ms:.3f}", f"{one.p90_ms:.3f}", f"{one.speedup:.2f}×", spread
        )
    console.print(made)


def show_comparison(compared: Comparison, console: Console) -> None:
    """Print how near two models are."""
    lines = [("data", compared.data), *(("guessed", guess) for guess in compared.guesses)]
    lines.append(("fidelity", fidelity_text(compared.fidelity)))
    if (judged := compared.accuracy) is not None:
        change = judged.after - judged.before
        lines.append((judged.metric, f"{judged.before:.4f} → {judged.after:.4f} ({change:+.4f})"))
    print_lines(console, lines)


def show_diagnosis(found: Diagnosed, console: Console) -> None:
    """Print what is installed and what starts."""
    lines = [("python", found.python), ("platform", found.platform)]
    lines += [(name, version or "not installed") for name, version in found.packages.items()]
    lines += [(name, version) for name, version in found.runtimes.items()]
    lines += [
        (name, f"does not start: {problem}" if problem else "starts") for name, problem in found.providers.items()
    ]
    print_lines(console, lines)
    if not found.broken:
        print_lines(console, [("problem", problem) for problem in found.problems] or [("problems", "none")])


def show_finetuned(found: Finetuned, console: Console, wrote: str) -> None:
    """Print what the epochs came to, and how near the model is to its teacher."""
    lines = list(tuned_lines(found.tuned))
    if found.fidelity is not None:
        lines.append(("fidelity", fidelity_text(found.fidelity)))
    if found.accuracy is not None:
        one = found.accuracy
        lines.append((one.metric, f"{one.before:.4f} → {one.after:.4f} ({one.after - one.before:+.4f})"))
    print_lines(console, [*lines, ("wrote", wrote)])


def show_sensitivity(found: Sensitivity, console: Console) -> None:
    """Print every point of every curve."""
    made = table(
        "layer or group", "made smaller by", "left", "weights", "multiply–adds", "own error", "outputs", left=2
    )
    for curve in found.curves:
        of = f" of {curve.whole}" if curve.whole else " a byte"
        for number, point in enumerate(curve.points):
            name = (curve.name, f"{curve.kind}, {curve.method}") if number == 0 else ("", "")
            shares = share(point.rate), share(point.macs), share(point.own_error), share(point.output_error)
            made.add_row(*name, f"{point.left}{of}", *shares)
    console.print(made)
    kept = "held-out inputs" if found.held_out else "inputs (none were held out)"
    lines = [
        ("errors", f"squared, over the variance; of the outputs on {found.samples} {kept}"),
        ("data", found.calibration.description),
        *(("guessed", guess) for guess in found.calibration.guesses),
        *closed_lines(found.closed, False),
    ]
    print_lines(console, lines)
