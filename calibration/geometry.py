"""Where a convolution's windows lie: sizes and paddings, `auto_pad` and `output_shape` resolved."""

from dataclasses import dataclass, replace

from onnxprune.labels import Shape
from onnxprune.op_rules.facts import Linear
from onnxprune.weights import ints


@dataclass(frozen=True)
class Geometry:
    """Per spatial axis: output size, padding before, extent of a window, stride and dilation."""

    outside: list[int]
    begin: list[int]
    spans: list[int]
    strides: list[int]
    dilations: list[int]

    def as_convolution(self) -> "Geometry":
        """A transposed convolution, seen as a convolution of its input with zeros put between the positions."""
        begin = [span - 1 - b for span, b in zip(self.spans, self.begin, strict=True)]
        return replace(self, begin=begin, strides=[1] * len(begin))


def geometry(linear: Linear, inside: Shape) -> Geometry:
    """The geometry of a Conv or ConvTranspose whose input has the spatial sizes `inside`."""
    node, rank = linear.node, len(inside)
    dilations, strides = ints(node, "dilations", [1] * rank), ints(node, "strides", [1] * rank)
    spans = [(k - 1) * d + 1 for k, d in zip(linear.kernel, dilations, strict=True)]
    resolve = _transposed if linear.kind == "conv_transpose" else _direct
    outside, begin = resolve(linear, inside, spans, strides)
    return Geometry(outside, begin, spans, strides, dilations)


def _auto_pad(linear: Linear) -> str:
    attribute = linear.node.attributes.get("auto_pad")
    return "NOTSET" if attribute is None else attribute.as_string()


def _pads(linear: Linear, rank: int) -> list[int]:
    return ints(linear.node, "pads", [0] * 2 * rank) if _auto_pad(linear) == "NOTSET" else [0] * 2 * rank


def _begin(total: int, auto: str) -> int:
    """SAME_UPPER puts the odd one behind."""
    return total // 2 if auto == "SAME_UPPER" else total - total // 2


def _direct(linear: Linear, inside: Shape, spans: list[int], strides: list[int]) -> tuple[list[int], list[int]]:
    auto, rank = _auto_pad(linear), len(inside)
    if auto.startswith("SAME"):
        outside = [-(-d // s) for d, s in zip(inside, strides, strict=True)]
        totals = [max(0, (o - 1) * s + w - d) for o, s, w, d in zip(outside, strides, spans, inside, strict=True)]
        return outside, [_begin(total, auto) for total in totals]
    pads = _pads(linear, rank)
    padded = [d + a + b for d, a, b in zip(inside, pads[:rank], pads[rank:], strict=True)]
    return [(d - w) // s + 1 for d, w, s in zip(padded, spans, strides, strict=True)], pads[:rank]


def _transposed(linear: Linear, inside: Shape, spans: list[int], strides: list[int]) -> tuple[list[int], list[int]]:
    auto, rank = _auto_pad(linear), len(inside)
    extra = ints(linear.node, "output_padding", [0] * rank)
    full = [(d - 1) * s + w + e for d, s, w, e in zip(inside, strides, spans, extra, strict=True)]
    wanted = ints(linear.node, "output_shape", [])[-rank:]
    if auto.startswith("SAME") and not wanted:
        wanted = [d * s for d, s in zip(inside, strides, strict=True)]
    if wanted:
        return wanted, [_begin(max(0, f - w), auto) for f, w in zip(full, wanted, strict=True)]
    pads = _pads(linear, rank)
    return [f - a - b for f, a, b in zip(full, pads[:rank], pads[rank:], strict=True)], pads[:rank]
