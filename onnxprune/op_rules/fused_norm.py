"""Rules of onnxruntime's fused normalisations: a sum, or a sum of embeddings, and the norm of it."""

from onnxprune.labels import on
from onnxprune.op_rules.attention import MICROSOFT
from onnxprune.op_rules.elementwise import aligned
from onnxprune.op_rules.facts import Facts, Fixed, Out
from onnxprune.op_rules.registry import Op, averaged, fix, hold, rule


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_layer_norm(op: Op) -> Facts:
    """Input, skip and bias are added (the last output is their sum), and the sum is normalised over the last axis."""
    labels = yield from aligned(op, range(len(op.node.inputs)))
    axis = len(op.shape()) - 1
    if handed_on := {1, 2} & set(op.outputs()):
        yield from hold(labels, [axis], f"{op.node.op_type} hands its statistics on")
    else:
        yield from averaged(op, [axis], f"{op.node.op_type} takes its statistics over it", labels)
    yield from (Out(index, labels) for index in op.outputs() if index not in handed_on)


@rule("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_norm(op: Op) -> Facts:
    """Rows of up to three tables are added and normalised, in a way that leaves no channel out."""
    yield from fix(op.labels(), "EmbedLayerNormalization looks rows up by it")
    channels = op.fresh(op.out_shape()[2])
    yield Fixed(channels, "EmbedLayerNormalization takes its statistics over it")
    for index in op.outputs():
        yield Out(index, on(2, channels) if index != 1 else ())
