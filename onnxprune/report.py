"""The report: what a run did, what it cost and what it proved; versioned JSON."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from onnxprune.config import Config


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class GroupReport(_Frozen):
    """One group: its width before and after, the method that chose what went, and the error of its readers.

    The error is the largest relative one, on held-out rows, that the rebuild left in a reader; None where no reader was
    solved. `reason` says why a group stayed whole.
    """

    name: str
    width: int
    kept: int
    method: str = ""
    error: float | None = None
    reason: str = ""


class ClosedReport(_Frozen):
    """Channels that could not go, and why."""

    name: str
    width: int
    reason: str


class LayerReport(_Frozen):
    """One rebuilt layer: its relative held-out error before and after the solve."""

    name: str
    before: float
    after: float


class ProductReport(_Frozen):
    """A layer of `outputs` × `inputs` that became two, of this rank, and the error of its outputs on held-out rows.

    The error is None where nothing tells.
    """

    name: str
    inputs: int
    outputs: int
    rank: int
    method: str
    error: float | None = None


class Totals(_Frozen):
    """Multiply–adds a sample, parameters, and bytes of the model."""

    macs: int
    params: int
    bytes: int


class Latency(_Frozen):
    """Milliseconds a run at one batch size, original and pruned in turn: medians, and the ratio with its spread."""

    batch: int
    threads: int | None
    before_ms: float
    after_ms: float
    speedup: float
    speedup_p10: float
    speedup_p90: float


class Fidelity(_Frozen):
    """How near the outputs stay to the original's: `held_out` tells whether these inputs were kept from the solvers."""

    samples: int
    held_out: bool
    relative_error: float
    top1_agreement: float | None = None


class Accuracy(_Frozen):
    """A metric of the user's, before and after."""

    metric: str
    before: float
    after: float


class EpochReport(_Frozen):
    """One epoch of fine-tuning: its mean loss, and how the average of the weights did on the samples kept to judge.

    `same_class` is the share of equal classes, `difference` the relative one of the outputs where none holds classes.
    """

    epoch: int
    loss: float
    validation: float | None = None
    same_class: float | None = None
    difference: float | None = None


class Tuned(_Frozen):
    """A fine-tune: on how many samples, by which loss for which output, and which epoch was kept (0: the start)."""

    description: str
    samples: int
    judges: int
    labels: bool
    loss: dict[str, str]
    steps: int
    processes: int
    epochs: tuple[EpochReport, ...]
    best: int


class JointReport(_Frozen):
    """The joint training of all `layers` that became products (`--fc ger`), by which rate, and the epoch that was kept.

    `before` and `after` are the squared error of the outputs over their variance, on the `judges`; `best` is 0 where
    the start was kept.
    """

    layers: int
    samples: int
    judges: int
    rate: float
    epochs: tuple[EpochReport, ...]
    best: int
    before: float
    after: float


class RoundReport(_Frozen):
    """One of several cuts: widths of the groups that had lost channels by then, shares of the original that were left.

    `group` is the one that was cut, where they are cut one by one; `tuned` the fine-tune behind it.
    """

    name: str
    group: str | None = None
    kept: dict[str, int]
    macs: float
    params: float
    tuned: Tuned | None = None


class Calibrated(_Frozen):
    """The data that was used."""

    description: str
    samples: int
    synthetic: bool
    disk_bytes: int = 0
    guesses: tuple[str, ...] = ()


class Budget(_Frozen):
    """What was asked for, as a share of the original, and what was reached; `plan` where a plan was replayed."""

    kind: Literal["macs", "params", "ratio", "ratios", "ranks", "plan"]
    target: float
    reached: float


class Report(_Frozen):
    """Everything a run tells."""

    schema_version: Literal[1] = 1
    onnxprune: str
    model: str
    config: Config
    budget: Budget
    allocation: str
    align: int
    calibration: Calibrated | None
    groups: tuple[GroupReport, ...]
    closed: tuple[ClosedReport, ...]
    layers: tuple[LayerReport, ...]
    products: tuple[ProductReport, ...] = ()
    joint: JointReport | None = None
    before: Totals
    after: Totals
    proof: float
    tuned: Tuned | None = None
    rounds: tuple[RoundReport, ...] = ()
    latency: tuple[Latency, ...] = ()
    fidelity: Fidelity | None = None
    accuracy: Accuracy | None = None
    seconds: dict[str, float]
    notes: tuple[str, ...] = ()


class Finetuned(_Frozen):
    """What `onnxprune finetune` tells: fidelity and accuracy compare with the teacher, where there is one."""

    schema_version: Literal[1] = 1
    onnxprune: str
    model: str
    teacher: str | None
    config: Config
    tuned: Tuned
    fidelity: Fidelity | None = None
    accuracy: Accuracy | None = None
    seconds: dict[str, float]
