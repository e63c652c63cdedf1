"""Fix a model's dynamic dimensions by the user's word and by the data."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnxprune.calibration.inputs import InputSpec, batch_axes, is_state
from onnxprune.errors import BadInput

Shape = tuple[int, ...]


def parse_input_shape(text: str) -> tuple[str, Shape]:
    """Read `name=1,3,224,224`, the value of `--input-shape`.

    >>> parse_input_shape("pixels=1,3,224,224")
    ('pixels', (1, 3, 224, 224))

    Raises BadInput where the text has another form or a size below one.
    """
    name, equals, sizes = text.rpartition("=")
    try:
        shape = tuple(int(size) for size in sizes.split(",")) if sizes.strip() else ()
    except ValueError:
        shape = (0,)
    if not equals or not name.strip() or any(size < 1 for size in shape):
        raise BadInput(f"--input-shape {text!r}: write NAME=SIZE,SIZE,... with whole sizes from 1, as in x=1,3,224,224")
    return name.strip(), shape


def infer_layout(shape: Sequence[int | None]) -> str:
    """Tell "nchw" from "nhwc" by where a rank-4 shape holds 1, 3 or 4; "nchw" where that does not tell.

    >>> infer_layout((None, 224, 224, 3))
    'nhwc'
    """
    # A side of 4 pixels is as likely as 4 channels, so 4 tells only where 1 and 3 do not.
    for counts in ((1, 3), (4,)):
        if shape[1] in counts:
            return "nchw"
        if shape[3] in counts:
            return "nhwc"
    return "nchw"


def bind_given(specs: Sequence[InputSpec], given: Mapping[str, Shape]) -> list[InputSpec]:
    """Bind dynamic dimensions to the shapes the user gave, by input name.

    A dimension that another input calls by the same symbol is bound with it, and a bound batch is bound in every input.
    Raises BadInput for an unknown input, a wrong rank or a size that contradicts a fixed one.
    """
    known = {spec.name: spec for spec in specs}
    for name, shape in given.items():
        if name not in known:
            raise BadInput(f"--input-shape names {name!r}; the model's inputs are {quoted(known)}")
        _check_given(known[name], shape)
    sizes = {
        symbol: size
        for name, shape in given.items()
        for axis, size in enumerate(shape)
        if (symbol := known[name].symbol(axis)) is not None
    }
    bound = [replace(spec, shape=given.get(spec.name) or _by_symbol(spec, sizes)) for spec in specs]
    return _bind_batch(specs, bound)


def bind_known(specs: Sequence[InputSpec], given: Mapping[str, Shape], data: Mapping[str, Shape]) -> list[InputSpec]:
    """Bind every dimension that the user or the data tell; a batch axis that the model leaves open stays so.

    `given` holds the user's shapes and `data` the shapes of the calibration arrays (batch axis included, whatever its
    size), both by input name. Raises BadInput where the model, the user and the data contradict each other.
    """
    bound = _with_states(bind_given(specs, given), data)
    axes = batch_axes(bound)
    bound = [_from_data(spec, data[spec.name], axes[spec.name]) if spec.name in data else spec for spec in bound]
    sizes = {
        symbol: size
        for before, after in zip(specs, bound, strict=True)
        for axis, size in enumerate(after.shape)
        if size is not None and (symbol := before.symbol(axis)) is not None
    }
    return [replace(spec, shape=_by_symbol(spec, sizes, keep=axes[spec.name])) for spec in bound]


def check_shape(spec: InputSpec, shape: Shape, axis: int | None, what: str) -> None:
    """Raise BadInput unless `shape` fits the input on every axis but the batch axis; `what` names the data."""
    wanted = shape_text(spec.shape)
    if len(shape) != spec.rank:
        batchless = axis == 0 and len(shape) == spec.rank - 1
        hint = "add the batch axis with array[None]" if batchless else "reshape it"
        raise BadInput(
            f"{what} has shape {shape_text(shape)} (rank {len(shape)}), input {spec.name!r} takes {wanted}: {hint}"
        )
    wrong = [at for at in range(spec.rank) if at != axis and spec.shape[at] not in (None, shape[at])]
    if wrong:
        at = wrong[0]
        raise BadInput(
            f"{what} has shape {shape_text(shape)}, input {spec.name!r} takes {wanted}: axis {at} is {shape[at]}, "
            f"it must be {spec.shape[at]}{_transpose_hint(spec, shape, axis)}"
        )
    if 0 in shape:
        raise BadInput(f"{what} is empty: its shape is {shape_text(shape)}")


def quoted(names: Mapping[str, object] | Sequence[str]) -> str:
    """List names in quotes, in their order, for a message."""
    return ", ".join(repr(name) for name in names) or "none"


def shape_text(shape: Sequence[int | None]) -> str:
    """Write a shape as users do.

    >>> shape_text((None, 3, 32))
    '(?, 3, 32)'
    """
    return f"({', '.join('?' if size is None else str(size) for size in shape)})"


def filled(shape: tuple[int | None, ...], sizes: Mapping[int, int | None]) -> tuple[int | None, ...]:
    """The shape with `sizes`, by axis, where it holds None."""
    return tuple(sizes.get(axis) if size is None else size for axis, size in enumerate(shape))


def _check_given(spec: InputSpec, shape: Shape) -> None:
    text, wanted = ",".join(map(str, shape)), shape_text(spec.shape)
    if len(shape) != spec.rank:
        raise BadInput(f"--input-shape {spec.name}={text} has rank {len(shape)}, the model's input is {wanted}")
    for axis, (size, static) in enumerate(zip(shape, spec.shape, strict=True)):
        if static is not None and size != static:
            raise BadInput(
                f"--input-shape {spec.name}={text}: axis {axis} is {static} in the model ({wanted}), not {size}"
            )


def _by_symbol(spec: InputSpec, sizes: Mapping[str, int], keep: int | None = None) -> tuple[int | None, ...]:
    return tuple(
        sizes.get(spec.symbol(axis) or "") if size is None and axis != keep else size
        for axis, size in enumerate(spec.shape)
    )


def _bind_batch(specs: Sequence[InputSpec], bound: Sequence[InputSpec]) -> list[InputSpec]:
    axes = {name: axis for name, axis in batch_axes(specs).items() if axis is not None}
    sizes = [spec.shape[axes[spec.name]] for spec in bound if spec.name in axes]
    chosen = next((size for size in sizes if size is not None), None)
    return [
        replace(spec, shape=filled(spec.shape, {axes[spec.name]: chosen})) if spec.name in axes else spec
        for spec in bound
    ]


def _with_states(specs: Sequence[InputSpec], data: Mapping[str, Shape]) -> list[InputSpec]:
    """Recurrent states count samples on axis 1, unless the data hold another number of them."""
    axes = batch_axes(specs)
    counts = {data[name][axis] for name, axis in axes.items() if axis is not None and axis < len(data.get(name, ()))}

    def batched(spec: InputSpec) -> bool:
        return is_state(spec, axes) and (spec.name not in data or set(data[spec.name][1:2]) == counts)

    return [replace(spec, batch=1) if batched(spec) else spec for spec in specs]


def _from_data(spec: InputSpec, shape: Shape, axis: int | None) -> InputSpec:
    check_shape(spec, shape, axis, f"the calibration data for {spec.name!r}")
    return replace(spec, shape=filled(spec.shape, {at: size for at, size in enumerate(shape) if at != axis}))


def _transpose_hint(spec: InputSpec, shape: Shape, axis: int | None) -> str:
    for order in ((0, 3, 1, 2), (0, 2, 3, 1)):
        if len(shape) != 4 or axis != 0:
            break
        turned = [shape[at] for at in order]
        if all(size in (None, new) for size, new in zip(spec.shape[1:], turned[1:], strict=True)):
            return f"; array.transpose{order} would fit"
    return ""
