"""Sizes for the dimensions that nobody tells: a first guess, others to try in order, and what to say of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from onnxprune.calibration.bind import filled, infer_layout
from onnxprune.calibration.inputs import InputSpec, batch_axes

Axis = tuple[str, int]
"""An input's name, and one of its axes."""
Sizes = tuple[int, ...]
"""A size for each `Unknown`."""

_AXIS_KINDS = {"nchw": ("batch", "channels", "height", "width"), "nhwc": ("batch", "height", "width", "channels")}
_FIRST = {"channels": 3, "height": 224, "width": 224, "sequence": 64}
_FAMILY = {"height": "side", "width": "side"}
# 256 is near the first guess and suits every network that halves its images, wherever it joins them again; the others
# fit networks for one size, and the cheapest come first.
_SIDES = (256, 32, 28, 48, 64, 96, 112, 128, 160, 192, 240, 299, 320, 384, 416, 448, 512, 640)
_LENGTHS, _WAVES = (32, 16, 8, 128, 256, 512, 1024, 2048), (4096, 8192, 16384, 32768, 65536)
# Of these sizes any constant can be broadcast to, so that a model may run on them that means another.
_LAST_LENGTHS = (4, 2, 1)
# Attention over more positions takes gigabytes; a wave is cut into frames first.
_LONGEST = 2048
# Numbers of one sample's inputs, unless the first guess has more.
_MOST_ELEMENTS = 1 << 21


@dataclass(frozen=True)
class Unknown:
    """Axes of one unknown size: those that the model calls by one symbol, or a single one."""

    kind: str
    axes: tuple[Axis, ...]
    symbol: str | None
    wave: bool

    @property
    def first(self) -> int:
        """The size to try first."""
        return _FIRST[self.kind]

    @property
    def family(self) -> str:
        """Sizes of one family are mostly equal."""
        return _FAMILY.get(self.kind, self.kind)


def unknowns(known: Sequence[InputSpec]) -> list[Unknown]:
    """The sizes that are open, batch axes aside; a symbol that is the sum of others is none of its own."""
    axes = batch_axes(known)
    symbols = {symbol for spec in known for axis in range(spec.rank) if (symbol := spec.symbol(axis))}
    groups: dict[str | Axis, list[tuple[InputSpec, int]]] = {}
    for spec in known:
        for axis, size in enumerate(spec.shape):
            symbol = spec.symbol(axis)
            if size is None and axis != axes[spec.name] and not _is_sum(symbol, symbols):
                groups.setdefault(symbol or (spec.name, axis), []).append((spec, axis))
    return [_unknown(places, axes) for places in groups.values()]


def with_sizes(known: Sequence[InputSpec], unknown: Sequence[Unknown], sizes: Sizes) -> list[InputSpec]:
    """Fill the open axes, batch axes aside."""
    each = {axis: size for one, size in zip(unknown, sizes, strict=True) for axis in one.axes}
    named = {one.symbol: size for one, size in zip(unknown, sizes, strict=True) if one.symbol}
    bound = {spec.symbol(axis): size for spec in known for axis, size in enumerate(spec.shape) if size is not None}
    named = {symbol: size for symbol, size in bound.items() if symbol} | named
    batch = batch_axes(known)

    def size_of(spec: InputSpec, axis: int) -> int | None:
        return None if axis == batch[spec.name] else each.get((spec.name, axis)) or _total(spec.symbol(axis), named)

    return [
        replace(spec, shape=filled(spec.shape, {axis: size_of(spec, axis) for axis in range(spec.rank)}))
        for spec in known
    ]


def others(known: Sequence[InputSpec], unknown: Sequence[Unknown], numbers: Sequence[int]) -> Iterator[Sizes]:
    """What to try where the first guess does not run: all sizes of a kind changed alike, then each alone.

    `numbers` are sizes that the model suggests. What would hold too many numbers is left out.
    """
    first = tuple(one.first for one in unknown)
    most = max(_MOST_ELEMENTS, _elements(with_sizes(known, unknown, first)))
    seen = {first}
    for sizes in _varied(unknown, first, numbers):
        if sizes not in seen and _elements(with_sizes(known, unknown, sizes)) <= most:
            seen.add(sizes)
            yield sizes


def sentences(specs: Sequence[InputSpec], unknown: Sequence[Unknown]) -> list[str]:
    """Say of each guessed axis which size was taken; `specs` hold the sizes."""
    each = {axis: one for one in unknown for axis in one.axes}
    return [_sentence(spec, axis, each[spec.name, axis]) for spec in specs for axis in range(spec.rank)
            if (spec.name, axis) in each]  # fmt: skip


def flag(spec: InputSpec) -> str:
    """The option that sets an input's sizes."""
    return f"--input-shape {spec.name}={','.join('1' if size is None else str(size) for size in spec.shape)}"


def _sentence(spec: InputSpec, axis: int, unknown: Unknown) -> str:
    size = spec.shape[axis]
    why = "" if size == unknown.first else f", taken because the model does not run on {unknown.first}"
    return (
        f"Axis {axis} ({unknown.kind}) of input {spec.name!r} is dynamic and nothing says its size: {size} is a guess"
        f"{why}; {flag(spec)} (with your sizes) sets it."
    )


def _unknown(places: Sequence[tuple[InputSpec, int]], axes: Mapping[str, int | None]) -> Unknown:
    spec, axis = places[0]
    return Unknown(
        _kind(spec, axis),
        tuple((spec.name, axis) for spec, axis in places),
        spec.symbol(axis),
        all(_is_wave(spec, axis, axes[spec.name]) for spec, axis in places),
    )


def _kind(spec: InputSpec, axis: int) -> str:
    pixels = spec.dtype == np.uint8 or not np.issubdtype(spec.dtype, np.integer)
    return _AXIS_KINDS[infer_layout(spec.shape)][axis] if spec.rank == 4 and pixels else "sequence"


def _is_wave(spec: InputSpec, axis: int, batch: int | None) -> bool:
    """Whether each position of an axis holds one real number."""
    rest = [size for at, size in enumerate(spec.shape) if at not in (axis, batch)]
    return np.issubdtype(spec.dtype, np.floating) and all(size == 1 for size in rest)


def _varied(unknown: Sequence[Unknown], first: Sizes, numbers: Sequence[int]) -> Iterator[Sizes]:
    for family in dict.fromkeys(one.family for one in unknown):
        alike = [one for one in unknown if one.family == family]
        for size in _ladder(family, all(one.wave for one in alike), numbers):
            yield tuple(size if one in alike else before for one, before in zip(unknown, first, strict=True))
    ladders = [_ladder(one.family, one.wave, numbers) for one in unknown]
    for step in range(max(map(len, ladders), default=0)):
        for place, ladder in enumerate(ladders):
            if step < len(ladder):
                yield (*first[:place], ladder[step], *first[place + 1 :])


def _ladder(family: str, wave: bool, numbers: Sequence[int]) -> tuple[int, ...]:
    if family == "side":
        return _SIDES
    longest = _WAVES[-1] if wave else _LONGEST
    usual = (1, 4) if family == "channels" else (*_LENGTHS, *(_WAVES if wave else ()))
    last = () if family == "channels" else _LAST_LENGTHS
    return tuple(dict.fromkeys((*usual, *(number for number in numbers if number <= longest), *last)))


def _elements(specs: Sequence[InputSpec]) -> int:
    return sum(prod(size or 1 for size in spec.shape) for spec in specs)


def _is_sum(symbol: str | None, symbols: set[str]) -> bool:
    parts = [part.strip() for part in (symbol or "").split("+")]
    return len(parts) > 1 and all(part.isdecimal() or part in symbols for part in parts)


def _total(symbol: str | None, named: Mapping[str, int]) -> int | None:
    """The size that a symbol stands for: its own, or that of a sum such as "past + 1"."""
    parts = [part.strip() for part in (symbol or "").split("+")]
    sizes = [int(part) if part.isdecimal() else named.get(part) for part in parts]
    return None if None in sizes else sum(size for size in sizes if size is not None)
