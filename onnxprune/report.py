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

    The error is None where nothing tells; `kind` says which way a convolution went.
    """

    name: str
    inputs: int
    outputs: int
    rank: int
    method: str
    kind: Literal["channel", "spatial-svd"] = "channel"
    error: float | None = None


class CodesReport(_Frozen):
    """A layer whose weight is stored as codes of a byte, each for `segment` numbers, and the weight's bytes.

    `error` is what the weight lost, squared, over its square; `reason` says why a layer stayed as it was.
    """

    name: str
    method: str
    segment: int
    before: int
    after: int
    error: float | None = None
    reason: str = ""


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


class Memory(_Frozen):
    """Bytes that a process grows by, with a session that has run once and at the worst moment until then."""

    session: int
    peak: int


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

    `same_class` is the share of equal classes, `difference` the relative one of the outputs where none holds classes,
    `rate` the learning rate before warming up and cosine.
    """

    epoch: int
    loss: float
    validation: float | None = None
    same_class: float | None = None
    difference: float | None = None
    rate: float | None = None


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

    kind: Literal["macs", "params", "ratio", "ratios", "ranks", "codes", "plan"]
    target: float
    reached: float


class HeadReport(_Frozen):
    """A new head: a layer of `numbers` on the means of the `channels` of `source`, in the place of a tail.

    `error` is the share of the variance of what the original's last layer gives that it misses, and `same_class` how
    often the largest number is the same, both on held-out inputs. A head that a plan holds was not fitted again.
    """

    outputs: tuple[str, ...]
    source: str
    channels: int
    numbers: int
    samples: int = 0
    ridge: float | None = None
    error: float | None = None
    same_class: float | None = None


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
    codes: tuple[CodesReport, ...] = ()
    joint: JointReport | None = None
    before: Totals
    after: Totals
    proof: float
    heads: tuple[HeadReport, ...] = ()
    tuned: Tuned | None = None
    rounds: tuple[RoundReport, ...] = ()
    latency: tuple[Latency, ...] = ()
    memory: tuple[Memory, Memory] | None = None
    fidelity: Fidelity | None = None
    accuracy: Accuracy | None = None
    seconds: dict[str, float]
    notes: tuple[str, ...] = ()


class Point(_Frozen):
    """One layer or group made smaller: what is `left` of it, and what that costs.

    `left` counts channels, the rank, or the weights that a byte stands for. `rate` is the share of the weights that
    stays, of those that the change touches; `macs` and `params` are shares of the whole model's (codes count by their
    bytes). `own_error` is the squared error of what the layer gives, or what a group's readers give, and
    `output_error` that of the model's outputs, both over the variance of that.
    """

    left: int
    rate: float
    macs: float
    params: float
    own_error: float
    output_error: float


class Curve(_Frozen):
    """The points of one layer or group, `whole` of which there are (0 for codes), from little left to much."""

    name: str
    kind: Literal["channels", "rank", "codes"]
    method: str
    whole: int
    points: tuple[Point, ...]


class Sensitivity(_Frozen):
    """What `onnxprune sensitivity` tells: `samples` inputs judged, `held_out` from the solvers or not."""

    schema_version: Literal[1] = 1
    onnxprune: str
    model: str
    config: Config
    calibration: Calibrated
    samples: int
    held_out: bool
    curves: tuple[Curve, ...]
    closed: tuple[ClosedReport, ...]
    seconds: dict[str, float]


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
