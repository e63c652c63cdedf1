"""Rules of onnxruntime's fused layers and channels-last pools (domain com.microsoft)."""

from dataclasses import replace

from onnxprune.labels import Label, apart_from, atoms_of, on
from onnxprune.op_rules.facts import Fact, Facts, Linear, Out, Param, Tie
from onnxprune.op_rules.linear import convolution, gemm
from onnxprune.op_rules.matmul import matrices
from onnxprune.op_rules.registry import Op, fix, rule

DOMAIN = "com.microsoft"


@rule("FusedConv", domain=DOMAIN)
def fused_conv(op: Op) -> Facts:
    """A convolution, to whose result another tensor may be added before the activation."""
    for fact in convolution(op):
        yield _not_linear(fact)
        if isinstance(fact, Out):
            yield from _added(op, fact)


def _added(op: Op, result: Out) -> Facts:
    yield from fix(apart_from(op.labels(3), [1]), "FusedConv adds it to new channels")
    yield from fix(tuple(x for x in op.labels(3) if x.axes[0] == 1 and x.axes != (1,)), "its channels are split")
    width = op.out_shape()[1]
    outer = atoms_of(result.labels, 1, width)
    if op.constant(3):
        yield Param(3, Label((1,), outer))
    elif op.has(3):
        yield Tie(outer, op.atoms(1, 3))


@rule("FusedGemm", domain=DOMAIN)
def fused_gemm(op: Op) -> Facts:
    """A Gemm with an activation."""
    yield from (_not_linear(fact) for fact in gemm(op))


@rule("FusedMatMul", "TransposeMatMul", domain=DOMAIN)
def fused_matmul(op: Op) -> Facts:
    """A MatMul, the last two axes of either side turned, times a number."""
    if op.attr("transBatchA", 0) or op.attr("transBatchB", 0):
        yield from fix((*op.labels(0), *op.labels(1)), f"{op.node.op_type} turns its batch axes")
        return
    turned = bool(op.attr("transA", 0)), bool(op.attr("transB", 0))
    yield from (_not_linear(fact) for fact in matrices(op, turned))


def _not_linear(fact: Fact) -> Fact:
    """What follows an activation or a scale is not to be solved for."""
    return replace(fact, refit=False) if isinstance(fact, Linear) else fact


@rule("NhwcMaxPool", domain=DOMAIN)
def channels_last_pool(op: Op) -> Facts:
    """Channels pass, one by one."""
    last = len(op.shape()) - 1
    yield from fix(tuple(label for label in op.labels() if label.axes != (last,)), "NhwcMaxPool slides over its axis")
    yield Out(0, on(last, op.atoms(last)))
