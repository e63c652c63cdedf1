"""What a sweep tells: one row a job, the original beside them, and the best model at each budget; versioned JSON."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

RATES = {"macs": "multiply–adds", "params": "parameters", "bytes": "bytes", "latency": "latency"}
"""What models are compared by, as shares of the original."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Row(_Frozen):
    """One job: what it reached, as counts and as shares of the original, or why it failed.

    `latency` is the share of the original's milliseconds; `front` lists the rates by which no other model is both
    smaller and better.
    """

    method: str
    budget: float
    failed: str = ""
    file: str = ""
    macs: int | None = None
    params: int | None = None
    bytes: int | None = None
    macs_share: float | None = None
    params_share: float | None = None
    bytes_share: float | None = None
    milliseconds: float | None = None
    latency_share: float | None = None
    speedup: float | None = None
    speedup_p10: float | None = None
    speedup_p90: float | None = None
    accuracy: float | None = None
    relative_error: float | None = None
    top1_agreement: float | None = None
    seconds: float | None = None
    front: tuple[str, ...] = ()
    key: str = ""

    def rate(self, name: str) -> float | None:
        """What is left of the original, by one of `RATES`."""
        found: float | None = getattr(self, f"{name}_share")
        return found


class Original(_Frozen):
    """The model that was given."""

    macs: int
    params: int
    bytes: int
    milliseconds: float | None = None
    accuracy: float | None = None


class Sweep(_Frozen):
    """What `onnxprune sweep` tells.

    `metric` names what `accuracy` is, and is empty where there are no labels: then `relative_error` ranks. `best` has
    the place in `rows` of the best model of each budget. `exit_code` is what the command line returns.
    """

    schema_version: Literal[1] = 1
    onnxprune: str
    model: str
    by: str
    data: str
    samples: int
    judged: int
    metric: str = ""
    batch: int | None = None
    threads: int | None = None
    original: Original
    rows: tuple[Row, ...]
    best: tuple[int, ...]
    exit_code: int = 0

    def quality(self, row: Row) -> float | None:
        """The figure of merit of a row: higher is better."""
        if self.metric:
            return row.accuracy
        return None if row.relative_error is None else -row.relative_error
