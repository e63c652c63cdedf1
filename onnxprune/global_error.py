"""Global error reconstruction: the factors of all layers that became products, trained toward the original's outputs.

What stands before the first of them never changes, so its activations are computed once, and only what is behind them
is run again and again.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxprune.calibration.source import Source
from onnxprune.calibration.tape import Tape
from onnxprune.calibration.window import Window, batch_of
from onnxprune.config import Config
from onnxprune.dependency import Analysis
from onnxprune.graph import Array, values_by_name
from onnxprune.passes.factorize_low_rank import Written
from onnxprune.prepare import Data, Prepared
from onnxprune.probe import STILL, judged_values, nodes_behind, read_before
from onnxprune.progress import Stages, Tick
from onnxprune.report import JointReport
from onnxprune.runtime import open_session, run, subgraph
from onnxprune.torch_twin import ONE_AT_A_TIME
from onnxprune.tuning import require_same

if TYPE_CHECKING:
    from onnxprune.torch_twin import Twin
    from onnxprune.training.joint import Joint
    from onnxprune.training.processes import Processes

FEWEST_BATCHES, JUDGED = 16, 0.125
"""Batches are smaller where there would be fewer; this share of them, one at least, judges."""
MOST_BYTES = 4_000_000_000
"""Of activations and answers that are kept on disk."""
SEEN = 8
"""Batches that tell how much an output varies."""
STUCK = (
    "The factors (--fc ger) are those that the joint training starts from: no output in floating-point numbers depends "
    "on them by operators that have a gradient."
)
NO_BETTER = (
    "The factors (--fc ger) are those that the joint training starts from: no epoch did better on the judging inputs."
)
SHORTENED = "The joint training (--fc ger) took the first {} of {} inputs, for more activations would not fit on disk."


@dataclass(frozen=True, eq=False)
class _Recorded:
    """The part of the network behind the first factors, what it reads and should answer, and the samples a batch."""

    tail: ir.Model
    given: Mapping[str, Tape]
    answers: Mapping[str, Tape]
    sizes: Sequence[int]


def reconstruct(
    prepared: Prepared, model: ir.Model, written: Sequence[Written], data: Data, config: Config, stages: Stages
) -> tuple[ir.Model, JointReport | None, tuple[str, ...]]:
    """The model with trained factors and biases of its products; what that came to, and notes.

    All other constants stay bit for bit. Raises ProofFailed where torch computes otherwise than the runtime does.
    """
    learned = _learned(prepared.analysis, model, written)
    with stages.stage("record", data.batches) as tick:
        found = _record(prepared.analysis, model, learned, _batches(data, config), data, tick)
    if not found.answers:
        return model, None, (STUCK,)
    taken, every = sum(found.sizes), data.source.samples
    notes = (SHORTENED.format(taken, every),) if taken < every else ()
    trained, report = _train(model, found, learned, len(written), config, stages)
    if report is None:
        return model, None, (STUCK,)
    return trained, report, notes if report.best else (*notes, NO_BETTER)


def _learned(analysis: Analysis, model: ir.Model, written: Sequence[Written]) -> list[str]:
    """The factors, and those of their layers' biases that no other node reads."""
    names, values = {one.node for one in written}, values_by_name(model)
    biases = [x.bias.name or "" for x in analysis.linears if x.bias is not None and (x.node.name or "") in names]
    own = [name for name in biases if name in values and len(values[name].uses()) == 1]
    return list(dict.fromkeys([*(name for one in written for name in (one.first, one.second)), *own]))


def _batches(data: Data, config: Config) -> Source:
    """The inputs to solve on, in batches that are small enough for some to judge."""
    size, samples = config.batch_size, data.source.samples
    while size > 1 and samples // size < FEWEST_BATCHES:
        size = -(-size // 2)
    return data.source if data.fixed_batch else Window(data.source, data.axes, 0, samples, size)


def _record(
    analysis: Analysis, model: ir.Model, learned: Sequence[str], source: Source, data: Data, tick: Tick
) -> _Recorded:
    """Run the head of the model, and the whole of the original, once over the inputs."""
    values = values_by_name(model)
    reads = sorted(read_before(model, [values[name] for name in learned]))
    made = {value.name for node in nodes_behind(model, learned) for value in node.outputs}
    judged = [name for name in judged_values(model) if name in made]
    computed = [name for name in reads if values[name].producer() is not None]
    head = open_session(model, outputs=computed) if computed else None
    original = open_session(analysis.model, outputs=judged)
    given, answers = {name: Tape() for name in reads}, {name: Tape() for name in judged}
    sizes: list[int] = []
    for feeds in source.batches():
        known = {**feeds, **(run(head, feeds) if head is not None else {}), **run(original, feeds)}
        for name, tape in (*given.items(), *answers.items()):
            tape.append(known[name])
        sizes.append(batch_of(feeds, data.axes))
        tick()
        if sum(tape.bytes for tape in (*given.values(), *answers.values())) > MOST_BYTES:
            break
    answers = {name: tape for name, tape in answers.items() if np.issubdtype(tape[0].dtype, np.floating)}
    tail = _cut(model, {name: tape[0] for name, tape in given.items()}, answers) if answers else model
    return _Recorded(tail, given, answers, sizes)


def _cut(model: ir.Model, given: Mapping[str, Array], outputs: Collection[str]) -> ir.Model:
    """The part of the model that computes these outputs from what is given."""
    model = model.clone()
    values = values_by_name(model)
    for name, array in given.items():
        values[name].type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
    return subgraph(model, list(given), list(outputs))


def _train(
    model: ir.Model, found: _Recorded, learned: Sequence[str], layers: int, config: Config, stages: Stages
) -> tuple[ir.Model, JointReport | None]:
    """Train the twin of the tail; no report where the answers do not turn on what learns, by any gradient."""
    import torch

    from onnxprune.torch_twin import Twin
    from onnxprune.training.joint import RATES
    from onnxprune.training.processes import alone

    together = alone()
    joint = _joint(Twin(found.tail).to(together.device), found, learned, together)
    with torch.no_grad():
        outputs, _, _ = joint(joint.rows, None)
    feeds = {name: tape[0] for name, tape in found.given.items()}
    require_same(run(open_session(found.tail), feeds), {name: tensor.cpu() for name, tensor in outputs.items()})
    if not joint.can_learn():
        return model, None
    epochs = joint.epochs(config.ger_epochs)
    stage = stages.stage("reconstruct", epochs * len(joint.rows) * len(RATES))
    with stage as tick, ONE_AT_A_TIME, torch.random.fork_rng(devices=[]):
        told = joint.train(epochs, config.seed, stages.tell, tick)
    report = JointReport(
        layers=layers,
        samples=sum(found.sizes[row] for row in joint.rows),
        judges=sum(found.sizes[row] for row in joint.judges),
        rate=told.rate,
        epochs=told.epochs,
        best=told.best,
        before=told.before,
        after=told.after,
    )
    return joint.twin.write_back(model), report


def _joint(twin: "Twin", found: _Recorded, learned: Sequence[str], together: "Processes") -> "Joint":
    from onnxprune.training.joint import Joint
    from onnxprune.training.losses import Term

    own = dict(twin.named_parameters())
    for name, parameter in own.items():
        parameter.requires_grad_(name in learned)
    number = len(found.sizes)
    judging = max(round(number * JUDGED), 1) if number > 1 else 0
    every = np.arange(number)
    terms = [Term(name, "numbers", _variance(tape)) for name, tape in found.answers.items()]
    return Joint(
        twin,
        {name: own[name] for name in learned if name in own},
        found.given,
        found.answers,
        terms,
        every[: number - judging],
        every[number - judging :] if judging else every,
        together,
    )


def _variance(tape: Tape) -> float:
    """That of an output; its mean square where it hardly varies."""
    numbers = np.concatenate([tape[i].astype(np.float64).reshape(-1) for i in range(min(len(tape), SEEN))])
    variance, square = float(np.var(numbers)), float(np.mean(numbers**2))
    return (variance if variance > STILL * square else square) or 1.0
