"""Rules of the operators that hold bodies; the nodes in a body have the rules that they have outside."""

from onnxprune.graph import bodies
from onnxprune.labels import Labels
from onnxprune.op_rules.facts import Facts, Fixed, Out, Tie
from onnxprune.op_rules.registry import Op, fix, rule


@rule("If")
def branches(op: Op) -> Facts:
    """An output is what either branch gives, so the channels of both go together."""
    for index in op.outputs():
        ends = [body.outputs[index] for body in bodies(op.node)]
        ranks = {len(op.trace.shape(end)) if op.trace.knows(end) else None for end in ends}
        labels = [op.labelled.get(end, ()) for end in ends]
        if ranks == {len(op.out_shape(index))}:
            yield from _joined(op, index, labels)
        else:
            for one in labels:
                yield from fix(one, "the branches of If give different ranks, or one does not run on these inputs")


def _joined(op: Op, index: int, labels: list[Labels]) -> Facts:
    first, *others = [{label.axes: label for label in one} for one in labels]
    everywhere = set(first).intersection(*others)
    for other in others:
        everywhere -= {a for a in everywhere if other[a].atoms.shape != first[a].atoms.shape}
    for one in (first, *others):
        for axes, label in one.items():
            if axes not in everywhere:
                yield Fixed(label.atoms, "the other branch of If has no such channels")
            elif label is not first[axes]:
                yield Tie(first[axes].atoms, label.atoms)
    yield Out(index, tuple(label for axes, label in first.items() if axes in everywhere))


@rule("Loop", "Scan")
def repeated(op: Op) -> Facts:
    """What a pass hands to the next, takes from a sequence or adds to one keeps its channels."""
    kind = op.node.op_type
    for index in range(len(op.node.inputs)):
        yield from fix(op.labels(index), f"{kind} hands it from pass to pass, or takes it apart")
    for body in bodies(op.node):
        for value in body.outputs:
            yield from fix(op.labelled.get(value, ()), f"{kind} hands it to the next pass, or collects it")
    for index in op.outputs():
        yield Out(index, ())
