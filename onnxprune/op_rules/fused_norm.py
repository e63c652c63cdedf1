"""Rules of onnxruntime's fused normalisations: a sum, or a sum of embeddings, and the norm of it."""

from onnxprune.labels import Labels, on
from onnxprune.op_rules.attention import MICROSOFT
from onnxprune.op_rules.facts import Facts, Fixed, Out, Param, Tie
from onnxprune.op_rules.registry import Op, averaged, rule


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_layer_norm(op: Op) -> Facts:
    """Input, skip and bias are added (the last output is their sum), and the sum is normalised over the last axis."""
    axis = len(op.shape()) - 1
    channels = op.atoms(axis)
    yield Tie(channels, op.atoms(len(op.shape(1)) - 1, 1))
    yield from averaged(op, [axis], f"{op.node.op_type} takes its statistics over it")
    for index in range(2, len(op.node.inputs)):
        yield from _vector(op, index, on(0, channels))
    for index in op.outputs():
        if index in (0, 3):
            yield Out(index, op.labels())


def _vector(op: Op, index: int, labels: Labels) -> Facts:
    for label in labels if op.has(index) else ():
        if op.constant(index):
            yield Param(index, label)
        else:
            yield Fixed(label.atoms, f"{op.node.op_type} takes computed parameters")


@rule("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_norm(op: Op) -> Facts:
    """Rows of up to three tables are added and normalised; a table loses columns, never rows."""
    tables = [index for index in (2, 3, 4) if op.has(index)]
    channels = op.fresh(op.out_shape()[2])
    for index in tables:
        if op.constant(index):
            yield Param(index, on(1, channels)[0])
        else:
            yield Fixed(channels, f"{op.node.op_type} reads a computed table")
    for index in (5, 6):
        yield from _vector(op, index, on(0, channels))
    yield Fixed(channels, "EmbedLayerNormalization takes its statistics over it")
    for index in op.outputs():
        yield Out(index, on(2, channels) if index != 1 else ())
