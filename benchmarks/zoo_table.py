"""What is told of the zoo, as Markdown: a row a model, whatever became of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """What became of one model; shares are of the original, memory in bytes. An `error` says why there are no figures.

    `closed` holds, by reason, how many groups cannot go and their channels; `speedup` how many times as fast it is.
    """

    name: str
    error: str = ""
    macs: float = 1.0
    params: float = 1.0
    least_macs: float = 1.0
    least_params: float = 1.0
    pruned: int = 0
    groups: int = 0
    closed: Mapping[str, Sequence[int]] = field(default_factory=dict)
    proof: float = 0.0
    seconds: float = 0.0
    memory: int = 0
    speedup: float = 1.0
    data: str = "made up"


@dataclass(frozen=True)
class Fidelity:
    """Relative errors of the outputs on held-out real inputs, of the method of this project and of the baseline."""

    name: str
    error: str = ""
    obs: float = 0.0
    magnitude: float = 0.0
    obs_macs: float = 1.0
    magnitude_macs: float = 1.0
    seconds: float = 0.0
    memory: int = 0


COVERAGE_HEAD = """\
| model | inputs | multiply–adds | (least) | parameters | (least) | groups pruned | closed: groups (channels) | proof \
| seconds | memory | times as fast |
|---|---|--:|--:|--:|--:|--:|---|--:|--:|--:|--:|"""
FIDELITY_HEAD = """\
| model | obs | magnitude | obs / magnitude | multiply–adds of each | seconds | memory |
|---|--:|--:|--:|--:|--:|--:|"""


def coverage(rows: Sequence[Row]) -> str:
    """The table, with a sentence that sums it up."""
    return "\n".join((_summary(rows), "", COVERAGE_HEAD, *map(line, rows)))


def fidelity(rows: Sequence[Fidelity]) -> str:
    """The table, with a sentence that sums it up."""
    done = [row for row in rows if not row.error]
    better, half = (sum(row.obs <= share * row.magnitude for row in done) for share in (1.0, 0.5))
    told = f"{len(done)} models, {len(rows) - len(done)} failed; obs is better on {better}, at most half on {half}."
    return "\n".join((told, "", FIDELITY_HEAD, *map(line, rows)))


def line(row: Row | Fidelity) -> str:
    """One line of a table."""
    return _coverage_line(row) if isinstance(row, Row) else _fidelity_line(row)


def write(file: Path, mark: str, text: str) -> None:
    """Put a text between the marks `<!-- … begins -->` and `<!-- … ends -->` of a file."""
    begins, ends = f"<!-- {mark} begins -->", f"<!-- {mark} ends -->"
    before, rest = file.read_text(encoding="utf-8").split(begins)
    file.write_text(f"{before}{begins}\n{text}\n{ends}{rest.split(ends)[1]}", encoding="utf-8")


def _summary(rows: Sequence[Row]) -> str:
    done = [row for row in rows if not row.error]
    near = sum(row.least_params <= 0.6 for row in done)
    worst = max((row.proof for row in done), default=0.0)
    return (
        f"{len(rows)} models, {len(rows) - len(done)} failed. Of {near} at most 0.6 of the parameters remain with half "
        f"of every group gone. Largest difference from the masked original: {worst:.0e} of the largest output."
    )


def _coverage_line(row: Row) -> str:
    if row.error:
        return f"| {row.name} | {_cell(row.error)} |" + " |" * 10
    figures = (f"{row.macs:.3f}", f"{row.least_macs:.3f}", f"{row.params:.3f}", f"{row.least_params:.3f}")
    closed = "<br>".join(f"{n} ({channels}): {_cell(reason)}" for reason, (n, channels) in row.closed.items())
    rest = (f"{row.pruned} of {row.groups}", closed, f"{row.proof:.0e}", f"{row.seconds:.1f}", _megabytes(row.memory))
    return "| " + " | ".join((row.name, row.data, *figures, *rest, f"{row.speedup:.2f}×")) + " |"


def _fidelity_line(row: Fidelity) -> str:
    if row.error:
        return f"| {row.name} | {_cell(row.error)} |" + " |" * 5
    ratio = f"{row.obs / row.magnitude:.2f}" if row.magnitude else ""
    macs = f"{row.obs_macs:.3f}, {row.magnitude_macs:.3f}"
    cells = (f"{row.obs:.3f}", f"{row.magnitude:.3f}", ratio, macs, f"{row.seconds:.0f}", _megabytes(row.memory))
    return "| " + " | ".join((row.name, *cells)) + " |"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"


def _cell(text: str) -> str:
    """One line that breaks no table."""
    return " ".join(text.replace("|", "\\|").split())
