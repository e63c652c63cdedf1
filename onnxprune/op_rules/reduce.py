"""Rules of the operators that gather values along axes: pooling, reductions, softmax, normalisation."""

from onnxprune.labels import Labels, apart_from, on, reshaped, touching
from onnxprune.op_rules.facts import Facts, Fixed, Out
from onnxprune.op_rules.registry import Op, averaged, fix, hold, rule, sliced_along, without

POOLS = ["AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool"]
AVERAGES = ["ReduceMean", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare"]
REDUCTIONS = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]


@rule(*POOLS)
def pool(op: Op) -> Facts:
    """Channels pass, one by one."""
    yield from fix(apart_from(op.labels(), [1]), f"{op.node.op_type} slides over its axis")
    channels = op.atoms(1)
    yield from fix(tuple(x for x in op.labels() if 1 in x.axes and len(x.axes) > 1), "its channels are split over axes")
    if any(reader.op_type != "MaxUnpool" for value in op.node.outputs[1:] for reader, _ in value.uses()):
        yield Fixed(channels, "the indices of MaxPool count over all its channels")
    for index in op.outputs():
        yield Out(index, on(1, channels))


@rule(*(f"Reduce{name}" for name in REDUCTIONS), "ArgMax", "ArgMin")
def reduction(op: Op) -> Facts:
    """Axes that are not reduced pass; a reduced axis must stay whole, for its result would change."""
    rank = len(op.shape())
    if op.node.op_type.startswith("Arg"):
        axes = [op.attr("axis", 0) % rank]
    else:
        given = op.axes(1)
        axes = given if given else ([] if op.attr("noop_with_empty_axes", 0) else list(range(rank)))
    reason = f"{op.node.op_type} reduces over its axis"
    if op.node.op_type in AVERAGES:
        yield from averaged(op, axes, reason)
    else:
        yield from hold(op.labels(), axes, reason)
    yield Out(0, _squeezed(op, without(op.labels(), axes), axes))


def _squeezed(op: Op, labels: Labels, axes: list[int]) -> Labels:
    kept_dims = tuple(1 if a in axes else d for a, d in enumerate(op.shape()))
    return reshaped(labels, kept_dims, op.out_shape())[0]


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(op: Op) -> Facts:
    """Positions along the axis are weighed against each other; before opset 13 all axes from there on are."""
    rank = len(op.shape())
    axis = op.attr("axis", -1 if op.opset >= 13 else 1) % rank
    axes = [axis] if op.opset >= 13 else list(range(axis, rank))
    yield from hold(op.labels(), axes, f"{op.node.op_type} weighs its positions against each other")
    yield Out(0, op.labels())


@rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def layer_norm(op: Op) -> Facts:
    """Mean and variance run over every axis from `axis` on, so those must stay whole."""
    rank = len(op.shape())
    axes = range(op.attr("axis", -1) % rank, rank)
    yield from averaged(op, axes, f"{op.node.op_type} takes its mean and variance over it")
    for index in range(1, len(op.node.inputs)):
        for label in touching(op.labels(), axes):
            yield from sliced_along(op, index, label, [axis for axis in label.axes if axis in axes], axes.start)
    yield Out(0, op.labels())


@rule("LpNormalization")
def lp_norm(op: Op) -> Facts:
    """The norm runs along one axis."""
    axis = op.attr("axis", -1) % len(op.shape())
    yield from averaged(op, [axis], "LpNormalization takes its norm over it")
    yield Out(0, op.labels())
