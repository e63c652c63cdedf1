"""From finished jobs to rows: shares, the Pareto front of each rate, the best model at each budget; and CSV."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from onnxprune.report import Report
from onnxprune.sweeping.facts import RATES, Original, Row, Sweep
from onnxprune.sweeping.jobs import Job
from onnxprune.sweeping.store import Finished, Store
from onnxprune.sweeping.timing import Timings
from onnxprune.version import __version__

Line = tuple[Job, str, Finished]


def tabulate(name: str, lines: Sequence[Line], timings: Timings | None, by: str, store: Store) -> Sweep:
    """Everything that the sweep tells. At least one job must have come to an end."""
    reports = [one.report for _, _, one in lines if one.report is not None]
    first = reports[0]
    rows = [_row(*line, timings, store) for line in lines]
    judged = next((r.fidelity.samples for r in reports if r.fidelity is not None), 0)
    told = Sweep(
        onnxprune=__version__,
        model=name,
        by=by,
        data=first.calibration.description if first.calibration else "",
        samples=first.calibration.samples if first.calibration else 0,
        judged=judged,
        metric=first.accuracy.metric if first.accuracy else "",
        batch=timings.batch if timings else None,
        threads=timings.threads if timings else None,
        original=_original(first, timings),
        rows=tuple(rows),
        best=(),
        exit_code=_exit_code(lines),
    )
    fronts = {rate: front(told, rate) for rate in RATES}
    marked = [
        row.model_copy(update={"front": tuple(rate for rate in RATES if number in fronts[rate])})
        for number, row in enumerate(rows)
    ]
    return told.model_copy(update={"rows": tuple(marked), "best": best(told)})


def front(sweep: Sweep, rate: str) -> set[int]:
    """The rows that no other one, and not the original, beats: as small or smaller, and as good or better."""
    points: list[tuple[float, float, int]] = [(1.0, -_whole(sweep), -1)]
    for number, row in enumerate(sweep.rows):
        share, quality = row.rate(rate), sweep.quality(row)
        if share is not None and quality is not None:
            points.append((share, -quality, number))
    found, least = set(), float("inf")
    for _, loss, number in sorted(points):
        if loss < least:
            found.add(number)
            least = loss
    return found - {-1}


def best(sweep: Sweep) -> tuple[int, ...]:
    """The row of the best model of each budget, largest share first; of equals the one with fewer multiply–adds."""
    found: dict[float, tuple[float, float, int]] = {}
    for number, row in enumerate(sweep.rows):
        quality = sweep.quality(row)
        if quality is not None:
            rank = (-quality, float(row.macs or 0), number)
            found[row.budget] = min(found.get(row.budget, rank), rank)
    return tuple(found[budget][2] for budget in dict.fromkeys(row.budget for row in sweep.rows) if budget in found)


def csv_text(sweep: Sweep) -> str:
    """One line a job, and the original as the first."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Row.model_fields), lineterminator="\n")
    writer.writeheader()
    whole = {f"{rate}_share": 1.0 for rate in RATES} | {"speedup": 1.0, "relative_error": 0.0}
    known = {name: value for name, value in sweep.original.model_dump().items() if value is not None}
    writer.writerow({"method": "original", **known, **whole})
    for row in sweep.rows:
        writer.writerow(_cells(row.model_dump()))
    return text.getvalue()


def _cells(values: Mapping[str, object]) -> dict[str, object]:
    return {name: " ".join(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _whole(sweep: Sweep) -> float:
    return (sweep.original.accuracy or 0.0) if sweep.metric else 0.0


def _row(job: Job, key: str, done: Finished, timings: Timings | None, store: Store) -> Row:
    report = done.report
    if report is None:
        return Row(method=job.label, budget=job.budget, failed=done.failed, key=key)
    before, after, fidelity = report.before, report.after, report.fidelity
    timed = timings.models.get(done.sha256) if timings is not None else None
    return Row(
        method=job.label,
        budget=job.budget,
        file=done.files[0] if store.has(done) else "",
        macs=after.macs,
        params=after.params,
        bytes=after.bytes,
        macs_share=after.macs / max(before.macs, 1),
        params_share=after.params / max(before.params, 1),
        bytes_share=after.bytes / max(before.bytes, 1),
        milliseconds=timed.milliseconds if timed else None,
        latency_share=1 / timed.speedup if timed else None,
        speedup=timed.speedup if timed else None,
        speedup_p10=timed.speedup_p10 if timed else None,
        speedup_p90=timed.speedup_p90 if timed else None,
        accuracy=report.accuracy.after if report.accuracy else None,
        relative_error=fidelity.relative_error if fidelity else None,
        top1_agreement=fidelity.top1_agreement if fidelity else None,
        seconds=round(sum(report.seconds.values()), 3),
        key=key,
    )


def _original(report: Report, timings: Timings | None) -> Original:
    return Original(
        **report.before.model_dump(),
        milliseconds=timings.original if timings else None,
        accuracy=report.accuracy.before if report.accuracy else None,
    )


def _exit_code(lines: Iterable[Line]) -> int:
    """The gravest of the failures: a defect, bad input, a budget that cannot be met."""
    codes = {one.exit_code for _, _, one in lines}
    return next((code for code in (1, 2, 3) if code in codes), 0)
