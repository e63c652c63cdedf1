"""Fully connected layers with weights in codes of a byte: product quantisation, and signs with one scale.

Gong et al. 2014 (Compressing deep convolutional networks using vector quantization); Rastegari et al. 2016.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from scipy.cluster.vq import kmeans2, vq

from onnxprune.config import STORED, Config
from onnxprune.errors import BadInput
from onnxprune.graph import Array, array_of, nodes_by_name
from onnxprune.layers import solvable
from onnxprune.native import F64, Real
from onnxprune.passes.code_weights import Codes, code_weights, decoded
from onnxprune.passes.factorize_low_rank import matrix_of, place_of_weight
from onnxprune.plan import CodesPlan
from onnxprune.prepare import Prepared
from onnxprune.progress import Stages
from onnxprune.ranks import is_plain, is_window
from onnxprune.report import CodesReport

CENTRES, BITS = 256, 8
LEARNED_FROM, SEEDED_FROM, ROUNDS = 65_536, 4_096, 12
"""Segments that k-means goes over, that its first centres are drawn from, and how often it goes over them."""


@dataclass(frozen=True, eq=False)
class Coded:
    """The model with codes in the place of weights, these codes by the weights' names, and what the report tells.

    The reports are of the layers `asked` for, in that order.
    """

    model: ir.Model
    codes: Mapping[str, Codes]
    asked: tuple[CodesPlan, ...]
    reports: tuple[CodesReport, ...]

    @property
    def plans(self) -> tuple[CodesPlan, ...]:
        """The layers that are coded, for the plan."""
        return tuple(one for one, told in zip(self.asked, self.reports, strict=True) if not told.reason)

    def whole(self, dense: ir.Model) -> ir.Model:
        """Another model of whole weights with those that the codes stand for."""
        return decoded(dense, self.codes) if self.codes else dense


def coded(weight: Real, method: str, segment: int, seed: int) -> Codes:
    """A weight (n, F) as codes, by either method."""
    return binarised(weight) if method == "bin" else product_quantised(weight, segment, seed)


def product_quantised(weight: Real, segment: int, seed: int) -> Codes:
    """Cut each row of a weight (n, F) into segments of so many numbers, all named by one table of 256 (k-means)."""
    n, features = weight.shape
    padded = np.pad(weight, ((0, 0), (0, -features % segment)))
    segments = padded.reshape(-1, segment).astype(np.float32)
    table = _centres(segments, seed)
    index, _ = vq(segments, table)
    table = _means(segments, index, table)
    index, _ = vq(segments, table)
    return Codes(table, index.astype(np.uint8).reshape(n, -1), features)


def binarised(weight: Real) -> Codes:
    """The sign of every number of a weight (n, F), times the mean of their sizes; eight signs a byte."""
    scale = np.abs(weight).mean()
    signs = np.unpackbits(np.arange(CENTRES, dtype=np.uint8)[:, None], axis=1)
    return Codes(np.where(signs > 0, scale, -scale), np.packbits(weight >= 0, axis=1), weight.shape[1])


def code_layers(prepared: Prepared, model: ir.Model, config: Config, stages: Stages) -> Coded:
    """Code the layers that `--fc pq` or `bin` is about, those that get smaller by it.

    Raises BadInput where nothing else is asked for and none does.
    """
    if config.fc not in STORED:
        return Coded(model, {}, (), ())
    with stages.stage("code"):
        found = coded_as(model, codable(prepared, config))
    if config.stores_only and not found.codes:
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in found.reports)
        raise BadInput(f"--fc {config.fc} makes no layer smaller: {reasons or 'there is none that is fully connected'}")
    return found


def codable(prepared: Prepared, config: Config) -> tuple[CodesPlan, ...]:
    """The fully connected layers, and how they are to be coded."""
    segment = BITS if config.fc == "bin" else config.segment
    mine = [linear for linear in solvable(prepared.analysis) if linear.node.name not in prepared.frozen]
    names = [linear.node.name or "" for linear in mine if is_plain(linear, config) and not is_window(linear)]
    return tuple(CodesPlan(name=name, method=config.fc or "", segment=segment, seed=config.seed) for name in names)


def coded_as(model: ir.Model, plans: Sequence[CodesPlan]) -> Coded:
    """The model with layers coded as planned; a layer that would get no smaller stays, with a reason."""
    nodes = nodes_by_name(model)
    pairs = [_coded(nodes[one.name], one) for one in plans]
    smaller = {told.name: codes for told, codes in pairs if codes is not None}
    changed, codes = code_weights(model, smaller)
    return Coded(changed, codes, tuple(plans), tuple(told for told, _ in pairs))


def _coded(node: ir.Node, plan: CodesPlan) -> tuple[CodesReport, Codes | None]:
    weight, matrix = node.inputs[place_of_weight(node)], matrix_of(node)
    assert weight is not None
    whole = array_of(weight).nbytes
    told = CodesReport(name=plan.name, method=plan.method, segment=plan.segment, before=whole, after=whole)
    n, features = matrix.shape
    size = coded_bytes(n, features, plan.segment, array_of(weight).itemsize)
    reason = f"with its table it would take {size} bytes" if size >= whole else _unfit(matrix)
    if reason:
        return told.model_copy(update={"reason": reason}), None
    codes = coded(matrix, plan.method, plan.segment, plan.seed)
    missing = float(np.sum((matrix - codes.rows()) ** 2) / max(np.sum(matrix**2), 1e-30))
    return told.model_copy(update={"after": size, "error": missing}), codes


def coded_bytes(n: int, features: int, segment: int, itemsize: int) -> int:
    """Bytes of the table and of the codes."""
    return CENTRES * segment * itemsize + n * -(-features // segment)


def _unfit(matrix: Real) -> str:
    return "" if np.all(np.isfinite(matrix)) else "it holds numbers that are not finite"


def _centres(segments: Array, seed: int) -> Array:
    """(256, s) by k-means of some of the segments; where there are fewer, some rows stay zero."""
    rng = np.random.default_rng(seed)
    some = segments if len(segments) <= LEARNED_FROM else rng.choice(segments, LEARNED_FROM, replace=False)
    first = some if len(some) <= SEEDED_FROM else rng.choice(some, SEEDED_FROM, replace=False)
    distinct = np.unique(first, axis=0)
    if len(distinct) <= CENTRES:
        return np.pad(distinct, ((0, CENTRES - len(distinct)), (0, 0)))
    with warnings.catch_warnings():  # a centre that no segment is near stays where it is
        warnings.simplefilter("ignore", UserWarning)
        table, _ = kmeans2(distinct, CENTRES, iter=1, minit="++", seed=rng)
        table, _ = kmeans2(some, table, iter=ROUNDS, minit="matrix")
    return np.asarray(table)


def _means(segments: Array, index: Array, table: Array) -> Array:
    """The mean of the segments that have each code; where none has, what stood there."""
    counts = np.bincount(index, minlength=CENTRES)
    sums: F64 = np.stack([np.bincount(index, column, CENTRES) for column in segments.T], axis=1)
    return np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], table).astype(np.float32)
