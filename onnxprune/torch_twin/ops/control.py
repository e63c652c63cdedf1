"""Control flow: bodies are programs that see what is known around them."""

from typing import Any

import torch
from torch import Tensor

from onnxprune.torch_twin.program import Bodies
from onnxprune.torch_twin.registry import Call, op


@op("If", numbers=(0,))
def if_(call: Call, condition: Tensor, run: Bodies) -> tuple[Any, ...]:
    """One of two bodies."""
    return tuple(run("then_branch" if bool(condition) else "else_branch"))


@op("Loop", numbers=(0, 1))
def loop(call: Call, count: Tensor | None, condition: Tensor | None, *states: Any, run: Bodies) -> tuple[Any, ...]:
    """The states after the last pass, then what each pass hands out, stacked."""
    most = None if count is None else int(count.item())
    goes_on = True if condition is None else bool(condition)
    scanned: list[list[Any]] = []
    number = 0
    while goes_on and (most is None or number < most):
        again, *found = run("body", torch.tensor(number), torch.tensor(True), *states)
        states, rest = tuple(found[: len(states)]), found[len(states) :]
        scanned.append(rest)
        goes_on, number = bool(again), number + 1
    if not scanned:
        return (*states, *(run.none_of("body", place + 1) for place in range(len(states), call.outputs)))
    return (*states, *(torch.stack(column) for column in zip(*scanned, strict=True)))


@op("Scan")
def scan(call: Call, *inputs: Any, run: Bodies) -> tuple[Any, ...]:
    """Over slices of the last inputs; results are stacked along their axes."""
    count = call.attr("num_scan_inputs")
    states, sequences = inputs[: len(inputs) - count], inputs[len(inputs) - count :]
    axes = call.attr("scan_input_axes") or [0] * count
    back = call.attr("scan_input_directions") or [0] * count
    slices = [_slices(x, axis, bool(b)) for x, axis, b in zip(sequences, axes, back, strict=True)]
    rows = []
    for given in zip(*slices, strict=True):
        found = run("body", *states, *given)
        states = tuple(found[: len(states)])
        rows.append(found[len(states) :])
    columns = [list(column) for column in zip(*rows, strict=True)]
    out_axes = call.attr("scan_output_axes") or [0] * len(columns)
    out_back = call.attr("scan_output_directions") or [0] * len(columns)
    stacked = [
        torch.stack(column[::-1] if b else column, axis)
        for column, axis, b in zip(columns, out_axes, out_back, strict=True)
    ]
    return (*states, *stacked)


def _slices(x: Tensor, axis: int, back: bool) -> list[Tensor]:
    found = list(x.unbind(axis))
    return found[::-1] if back else found


@op("SequenceEmpty")
def sequence_empty(call: Call) -> list[Any]:
    """No tensors."""
    return []


@op("SequenceConstruct")
def sequence_construct(call: Call, *values: Tensor) -> list[Any]:
    """Tensors in a row."""
    return list(values)


@op("SequenceInsert", numbers=(2,))
def sequence_insert(call: Call, row: list[Any], value: Tensor, place: Tensor | None = None) -> list[Any]:
    """One more, at the end unless told where."""
    at = len(row) if place is None else int(place.item()) % (len(row) + 1)
    return [*row[:at], value, *row[at:]]


@op("SequenceAt", numbers=(1,))
def sequence_at(call: Call, row: list[Any], place: Tensor) -> Tensor:
    """One of them."""
    found: Tensor = row[int(place.item())]
    return found


@op("ConcatFromSequence")
def concat_from_sequence(call: Call, row: list[Any]) -> Tensor:
    """All of them, along an axis or along a new one."""
    return (torch.stack if call.attr("new_axis", 0) else torch.cat)(row, call.attr("axis"))


@op("SplitToSequence", numbers=(1,))
def split_to_sequence(call: Call, x: Tensor, sizes: Tensor | None = None) -> list[Any]:
    """Parts of given sizes, or single positions."""
    axis = call.attr("axis", 0)
    parts = list(torch.split(x, 1 if sizes is None else sizes.tolist(), axis))
    return [part.squeeze(axis) for part in parts] if sizes is None and not call.attr("keepdims", 1) else parts


@op("SequenceErase", numbers=(1,))
def sequence_erase(call: Call, row: list[Any], place: Tensor | None = None) -> list[Any]:
    """One fewer: the last unless told which."""
    at = (-1 if place is None else int(place.item())) % len(row)
    return [*row[:at], *row[at + 1 :]]


@op("SequenceLength")
def sequence_length(call: Call, row: list[Any]) -> Tensor:
    """How many there are."""
    return torch.tensor(len(row))


@op("SequenceMap")
def sequence_map(call: Call, row: list[Any], *others: Any, run: Bodies) -> tuple[Any, ...]:
    """A body on each tensor; of the others, a sequence goes along and a tensor is the same each time."""
    found = [run("body", x, *(o[i] if isinstance(o, list) else o for o in others)) for i, x in enumerate(row)]
    columns = [list(column) for column in zip(*found, strict=True)] or [[] for _ in range(call.outputs)]
    return tuple(columns)


@op("Optional", "OptionalGetElement")
def optional(call: Call, x: Any = None) -> Any:
    """What is there, or nothing."""
    return x


@op("OptionalHasElement")
def optional_has_element(call: Call, x: Any = None) -> Tensor:
    """Whether there is something."""
    return torch.tensor(x is not None)
