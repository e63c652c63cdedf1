"""Terminal text: figures with units, and the sentences of a report."""

import io

import pytest
from rich.console import Console

from onnxprune.config import make_config
from onnxprune.render import fidelity_text, quantity, share, show_report
from onnxprune.report import (
    Accuracy,
    Budget,
    Calibrated,
    ClosedReport,
    Fidelity,
    GroupReport,
    Latency,
    LayerReport,
    Report,
    Totals,
)

CLOSED = tuple(ClosedReport(name=f"layer[{i}]", width=4, reason=f"reason {min(i, 3)}") for i in range(6))
REPORT = Report(
    onnxprune="0",
    model="in.onnx",
    config=make_config(macs=0.5),
    budget=Budget(kind="macs", target=0.5, reached=0.49),
    allocation="global: because",
    align=16,
    calibration=Calibrated(description="64 images", samples=64, synthetic=False, guesses=("the height is 224",)),
    groups=(
        GroupReport(name="[red]conv", width=64, kept=16, method="obs", error=0.125),
        GroupReport(name="stream", width=32, kept=32, reason="it is dear"),
    ),
    closed=CLOSED,
    layers=(LayerReport(name="conv2", before=0.5, after=0.25),),
    before=Totals(macs=40_000_000, params=270_000, bytes=1_080_000),
    after=Totals(macs=19_600_000, params=135_000, bytes=540_000),
    proof=1e-7,
    latency=(Latency(batch=1, threads=2, before_ms=2.0, after_ms=1.0, speedup=2.0, speedup_p10=1.9, speedup_p90=2.1),),
    fidelity=Fidelity(samples=64, held_out=True, relative_error=0.25, top1_agreement=0.875),
    accuracy=Accuracy(metric="top-1 accuracy", before=0.9, after=0.85),
    seconds={"collect": 1.25},
    notes=("mind the data",),
)


def shown(report: Report, verbose: bool = False) -> str:
    text = io.StringIO()
    show_report(report, Console(file=text, width=140, markup=False), verbose, "out.onnx")
    return text.getvalue()


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip()]


def test_a_group_has_its_row() -> None:
    found = rows(shown(REPORT))
    assert ["[red]conv", "64", "16", "75.0", "%", "obs", "0.125"] in found
    assert ["stream", "32", "32", "it", "is", "dear"] in found


def test_totals_stand_before_and_after() -> None:
    text = shown(REPORT)
    found = rows(text)
    assert ["multiply–adds", "40", "M", "19.6", "M", "49.0", "%"] in found
    assert ["parameters", "270", "k", "135", "k", "50.0", "%"] in found
    assert "batch 1, 2 threads" in text
    assert "2.00× as fast (1.90–2.10)" in text
    assert ["top-1", "accuracy", "0.9000", "0.8500", "-0.0500"] in found


def test_everything_else_has_a_sentence() -> None:
    text = shown(REPORT)
    for told in (
        "macs 0.5 asked for, 0.4900 reached",
        "global: because; widths in multiples of 16",
        "64 images",
        "the height is 224",
        "same class for 87.5 %, outputs differ by 25.0 %, on 64 held-out inputs",
        "differs from the masked original by 1.0e-07",
        "mind the data",
        "out.onnx",
    ):
        assert told in text
    assert "conv2" not in text


def test_closed_groups_are_counted_and_verbose_lists_them() -> None:
    line = next(line for line in shown(REPORT).splitlines() if "cannot go" in line)
    assert "6 more groups cannot go: reason 3 (3×); reason 0; reason 1; and 1 more reasons (--verbose" in line
    text = shown(REPORT, verbose=True)
    assert all(f"layer[{i}] (4): reason {min(i, 3)}" in text for i in range(6))
    assert ["conv2", "0.5000", "0.2500"] in rows(text)
    assert "collect 1.25" in text


def test_a_run_that_removes_nothing_says_so() -> None:
    whole = REPORT.model_copy(update={"groups": REPORT.groups[1:], "config": make_config()})
    text = shown(whole)
    assert "Nothing was removed" in text
    assert "macs 0.5 by default" in text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1 k"),
        (270_123, "270 k"),
        (40_800_000, "40.8 M"),
        (4.1e9, "4.1 G"),
        (2e13, "20,000 G"),
    ],
)
def test_quantities_have_three_digits(number: float, text: str) -> None:
    assert quantity(number) == text


def test_shares_are_percent_and_small_ones_keep_a_digit_more() -> None:
    assert [share(x) for x in (0, 0.0042, 0.5, 1)] == ["0.0 %", "0.42 %", "50.0 %", "100.0 %"]


def test_fidelity_without_classes_tells_the_error_alone() -> None:
    text = fidelity_text(Fidelity(samples=3, held_out=False, relative_error=0.001))
    assert text == "outputs differ by 0.10 %, on 3 inputs (none were held out)"
