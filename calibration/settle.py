"""Bind what nobody tells to the first guess on which the model runs: open sizes, batch axes, and the batch itself."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from onnxprune.calibration.bind import filled
from onnxprune.calibration.guess import Sizes, Unknown, flag, others, sentences, unknowns, with_sizes
from onnxprune.calibration.inputs import InputSpec, batch_axes, fixed_batch
from onnxprune.calibration.trial import Feeds, Trial
from onnxprune.errors import BadInput

Make = Callable[[Sequence[InputSpec], int], Feeds]
"""Makes so many inputs of the given shapes."""

# More samples than this no model insists on; such a size counts something else.
_MOST_HELD = 32


@dataclass(frozen=True)
class _Choice:
    """Shapes to try: `known` tells the batch axes; `batch` is the only size of a batch, None where any will do."""

    known: tuple[InputSpec, ...]
    sizes: Sizes
    batch: int | None = None

    @property
    def unknown(self) -> list[Unknown]:
        return unknowns(self.known)

    @property
    def open_batch(self) -> bool:
        return any(axis is not None for axis in batch_axes(self.known).values()) and fixed_batch(self.known) is None

    def specs(self) -> list[InputSpec]:
        axes = batch_axes(self.known)
        bound = with_sizes(self.known, self.unknown, self.sizes)
        return bound if self.batch is None else [_in_batches(spec, axes[spec.name], self.batch) for spec in bound]


def settle(
    known: Sequence[InputSpec], batch_size: int, trial: Trial | None = None, make: Make | None = None
) -> tuple[list[InputSpec], list[str]]:
    """Bind what is still open to a guess on which the model runs, as near to the first guess as there is one.

    Returns the bound inputs and one sentence for each choice that nobody made. Without a trial the first guess is taken
    as it is. Otherwise `make` makes inputs of given shapes: the first guess is tried on few samples; then on one, for
    some models run on no more; then other sizes, see `guess.others`.
    Raises BadInput where a size had to be guessed and the model runs on none that was tried.
    """
    choice = _first(known)
    samples = min(batch_size, _few(choice))
    if trial is not None and make is not None and (choice.unknown or (choice.open_batch and samples > 1)):
        choice = _Search(trial, make, samples).run(choice)
    return choice.specs(), _said(choice, samples, batch_size)


class _Search:
    """Remembers what was refused, so that nothing is tried twice."""

    def __init__(self, trial: Trial, make: Make, samples: int) -> None:
        self._trial, self._make, self._samples = trial, make, samples
        self._refused: dict[_Choice, str] = {}

    def run(self, first: _Choice) -> _Choice:
        for choice in _choices(first, self._trial):
            if self._runs(choice):
                return self._freed(self._restored(choice))
        if first.unknown:
            raise BadInput(_hopeless(first, self._refused))
        return first  # it may be the values that do not suit the model: who uses them will say so

    def _runs(self, choice: _Choice) -> bool:
        if choice in self._refused:
            return False
        try:
            refusal = self._trial.refusal(self._make(choice.specs(), choice.batch or self._samples))
        except BadInput as error:  # fewer data than fill a batch
            refusal = str(error)
        if refusal is not None:
            self._refused[choice] = refusal
        return refusal is None

    def _restored(self, choice: _Choice) -> _Choice:
        """The choice with as many sizes of the first guess as it takes."""
        for place, one in enumerate(choice.unknown if len(choice.sizes) > 1 else ()):
            nearer = replace(choice, sizes=(*choice.sizes[:place], one.first, *choice.sizes[place + 1 :]))
            choice = nearer if nearer == choice or self._runs(nearer) else choice
        return choice

    def _freed(self, choice: _Choice) -> _Choice:
        """The choice with any batch size, where it takes that."""
        free = replace(choice, batch=None)
        return free if free == choice or self._runs(free) else choice


def _choices(first: _Choice, trial: Trial) -> Iterator[_Choice]:
    """The first guess, then the others; each on what can be read otherwise: which axes count samples, and how many."""
    layouts = [first, *_without_states(first)]
    for layout in layouts:
        yield layout
        yield from _few_at_once(layout)
    for layout in layouts if first.unknown else ():
        numbers = trial.numbers()
        for sizes in islice(others(layout.known, layout.unknown, numbers), trial.tries):
            yield from _few_at_once(replace(layout, sizes=sizes))


def _first(known: Sequence[InputSpec]) -> _Choice:
    return _Choice(tuple(known), tuple(one.first for one in unknowns(known)))


def _without_states(choice: _Choice) -> list[_Choice]:
    """The same where axis 1 of what looks like a recurrent state counts no samples."""
    plain = [replace(spec, batch=None) for spec in choice.known]
    return [] if plain == list(choice.known) else [_first(plain)]


def _few_at_once(choice: _Choice) -> list[_Choice]:
    """The choice with each batch that the model may insist on: 1, and what recurrent states of fixed size hold."""
    if not choice.open_batch:
        return [choice]
    return [replace(choice, batch=size) for size in dict.fromkeys((1, *_held(choice)))]


def _held(choice: _Choice) -> list[int]:
    axes = batch_axes(choice.known)
    states = [spec for spec in choice.known if spec.rank == 3 and axes[spec.name] is None]
    return [size for spec in states if (size := spec.shape[1]) is not None and size <= _MOST_HELD]


def _few(choice: _Choice) -> int:
    """How many samples to try at once: more than one, and no size that is right by chance."""
    return next(size for size in range(2, 10) if size not in _held(choice) or size == 9)


def _in_batches(spec: InputSpec, axis: int | None, size: int) -> InputSpec:
    return spec if axis is None else replace(spec, shape=filled(spec.shape, {axis: size}), batch=axis)


def _said(choice: _Choice, samples: int, batch_size: int) -> list[str]:
    specs = choice.specs()
    size = fixed_batch(specs)
    said = [
        f"Axis {spec.batch} of input {spec.name!r} is taken to count samples."
        for spec in choice.known
        if spec.batch is not None and spec.shape[spec.batch] is None
    ]
    if choice.batch is not None:
        said.append(
            f"The model does not run on {samples} samples at once though its batch axis is free, so samples run in "
            f"batches of {size}."
        )
    elif size is not None and size != batch_size:
        said.append(f"The batch axis is fixed at {size}, so samples run in batches of {size} instead of {batch_size}.")
    return said + sentences(specs, choice.unknown)


def _hopeless(first: _Choice, refused: Mapping[_Choice, str]) -> str:
    """What was tried, in one sentence, and what the runtime said of the first guess."""
    names = [f"axis {one.axes[0][1]} ({one.kind}) of {one.axes[0][0]!r}" for one in first.unknown]
    tried = [dict.fromkeys(c.sizes[at] for c in refused if len(c.sizes) == len(names)) for at in range(len(names))]
    sizes = "; ".join(f"{name}: {', '.join(map(str, each))}" for name, each in zip(names, tried, strict=True))
    free = {name for one in first.unknown for name, _ in one.axes}
    flags = " ".join(flag(spec) for spec in first.specs() if spec.name in free)
    return (
        f"the model runs on none of the sizes tried where it leaves them open ({sizes}): "
        f"{flags} (with your sizes) gives the right ones; the first error was: {next(iter(refused.values()))}"
    )
