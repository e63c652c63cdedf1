"""Rules of the operators that sample images at computed places: GridSample, RoiAlign, MaxUnpool and so on."""

from onnxprune.labels import apart_from, on
from onnxprune.op_rules.facts import Facts, Out, Settled, Tie
from onnxprune.op_rules.registry import Op, fix, follows, rule


@rule("GridSample", "MaxRoiPool", "RoiAlign")
@rule("CropAndResize", "GridSample", domain="com.microsoft")
def sampled(op: Op) -> Facts:
    """Channels pass, one by one; places are no channels."""
    yield from _only_channels(op)
    for index in op.activations():
        if index > 0:
            yield from fix(op.labels(index), f"{op.node.op_type} reads places from it")
    yield Out(0, on(1, op.atoms(1)))


@rule("AffineGrid")
def affine_grid(op: Op) -> Facts:
    """Of the image's size, the number of channels does not matter."""
    yield from fix(op.labels(), "AffineGrid reads a matrix from it")
    yield Settled(1, 1)
    yield Out(0, ())


@rule("MaxUnpool")
def unpool(op: Op) -> Facts:
    """Channels pass, one by one, together with those of the indices, which count anew over the channels that stay."""
    yield from _only_channels(op)
    source = op.input(1).producer()
    if source is None or source.op_type != "MaxPool":
        yield from fix(op.labels(), "MaxUnpool's indices count over all its channels")
    yield Tie(op.atoms(1), op.atoms(1, 1))
    for label in on(1, op.atoms(1)):
        if op.has(2):
            yield from follows(op, 2, 1, label)
    yield Out(0, on(1, op.atoms(1)))


def _only_channels(op: Op) -> Facts:
    yield from fix(apart_from(op.labels(), [1]), f"{op.node.op_type} slides over its axis")
    yield from fix(tuple(x for x in op.labels() if 1 in x.axes and len(x.axes) > 1), "its channels are split over axes")
