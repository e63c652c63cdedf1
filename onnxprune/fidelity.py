"""How near a pruned model stays: to the original's outputs, to labels, to a metric of the user's."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxprune.calibration.source import Source
from onnxprune.errors import BadInput
from onnxprune.graph import Array
from onnxprune.named import load_function
from onnxprune.parallel import ahead, share
from onnxprune.report import Fidelity
from onnxprune.runtime import open_session, run
from onnxprune.serialise import LARGE, release_all, tensor_bytes

Metric = Callable[[Any], float]
Answers = tuple[int, dict[str, Array], dict[str, Array]]
"""How many samples a batch has, and the outputs of two models."""


def compare(original: ir.Model, pruned: ir.Model, source: Source, held_out: bool) -> Fidelity:
    """Run both on the same inputs: ‖y − y₀‖/‖y₀‖ over all outputs, and top-1 agreement where there is one classifier.

    Each output counts with its own norm, so that large numbers do not hide small ones; of one that is no floating-point
    number (classes, ids) the root of the share of elements that differ counts.
    """
    errors: dict[str, Array] = {}
    agreed = counted = samples = 0

    large = tensor_bytes(original) + tensor_bytes(pruned) > LARGE
    for size, a, b in (_one_after_the_other if large else _side_by_side)(original, pruned, source):
        for name in a:
            if a[name].shape == b[name].shape:
                errors[name] = errors.get(name, np.zeros(2)) + _squares(a[name], b[name])
        classes = _classes(a)
        if classes is not None:
            agreed += int(np.sum(a[classes].argmax(-1) == b[classes].argmax(-1)))
            counted += len(a[classes])
        samples += size
    relative = [float(np.sqrt(e / max(n, 1e-30))) for e, n in errors.values()]
    mean = float(np.mean(relative)) if relative else 0.0
    return Fidelity(
        samples=samples,
        held_out=held_out,
        relative_error=mean,
        top1_agreement=agreed / counted if counted else None,
    )


def _side_by_side(first: ir.Model, second: ir.Model, source: Source) -> Iterator[Answers]:
    sessions = [open_session(model, threads=share()) for model in (first, second)]

    def outputs(feeds: dict[str, Array]) -> Answers:
        a, b = (run(session, feeds) for session in sessions)
        return len(next(iter(feeds.values()))), a, b

    return ahead(outputs, source.batches())


def _one_after_the_other(first: ir.Model, second: ir.Model, source: Source) -> Iterator[Answers]:
    """The weights of only one of the two are in memory, but all of its outputs."""
    answers = [_answers(model, source) for model in (first, second)]
    for feeds, a, b in zip(source.batches(), *answers, strict=True):
        yield len(next(iter(feeds.values()))), a, b


def _answers(model: ir.Model, source: Source) -> list[dict[str, Array]]:
    session = open_session(model)
    found = [{name: np.array(y) for name, y in run(session, feeds).items()} for feeds in source.batches()]
    release_all(model)
    return found


def _squares(expected: Array, found: Array) -> Array:
    """Squared difference, and what to divide it by."""
    if not np.issubdtype(expected.dtype, np.floating):
        return np.array([np.sum(expected != found), expected.size], np.float64)
    x, y = expected.astype(np.float64), found.astype(np.float64)
    return np.array([np.sum((x - y) ** 2), np.sum(x**2)])


def _classes(outputs: dict[str, Array]) -> str | None:
    """The only output that looks like scores of classes: two axes, several columns."""
    found = [n for n, y in outputs.items() if y.ndim == 2 and y.shape[1] > 1 and np.issubdtype(y.dtype, np.floating)]
    return found[0] if len(found) == 1 and len(outputs) == 1 else None


def accuracy(model: ir.Model, source: Source, labels: Array) -> float:
    """The share of inputs whose largest score is the label's.

    Raises BadInput where the model is no classifier.
    """
    session, right, seen = open_session(model), 0, 0
    for feeds in source.batches():
        outputs = run(session, feeds)
        name = _classes(outputs)
        if name is None:
            shapes = {n: y.shape for n, y in outputs.items()}
            raise BadInput(
                f"--eval needs one output (N, classes), the model has {shapes}; use --metric module:function"
            )
        scores = outputs[name]
        right += int(np.sum(scores.argmax(-1) == labels[seen : seen + len(scores)]))
        seen += len(scores)
    return right / max(seen, 1)


def load_metric(text: str) -> Metric:
    """The function that `module:function` names: an onnxruntime session in, a number out, higher is better.

    Raises BadInput where it cannot be imported.
    """
    return load_function(text, "--metric")
