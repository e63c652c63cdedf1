"""Small networks in quanta: quantised by onnxruntime's own tools, and the independent oracle for them."""

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dense_mask
import numpy as np
import onnx
import onnxruntime
from dense_mask import masked_model, max_relative_difference
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from removal import Case, masks, proto, removals
from topologies import TOPOLOGIES, feeds

from onnxprune.dependency import Keep
from onnxprune.passes.remove import remove
from onnxprune.passes.scatter import scatter

READS = {"QLinearConv": 2, "QLinearMatMul": 2, "QGemm": 2, "ConvInteger": 2, "MatMulInteger": 2}
"""Layers that read quanta as input 0, and where the zero point of those is."""


class _Batches(CalibrationDataReader):
    """Three batches of normal inputs: the ranges of the quantiser."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._left: Iterator[dict[str, np.ndarray]] = iter([feeds(model, seed, batch=4) for seed in range(3)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._left, None)


def static(model: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
    """Quantised with fixed scales."""
    return _quantised(model, lambda path, out: quantize_static(path, out, _Batches(model), **options))


def dynamic(model: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
    """Quantised with scales that each run finds anew."""
    return _quantised(model, lambda path, out: quantize_dynamic(path, out, **options))


def _quantised(model: onnx.ModelProto, quantise: Callable[[Path, Path], object]) -> onnx.ModelProto:
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path, out = Path(folder) / "model.onnx", Path(folder) / "quantised.onnx"
            onnx.save(model, path)
            quantise(path, out)
            return onnx.shape_inference.infer_shapes(onnx.load(out))
    finally:
        logging.disable(logging.NOTSET)


INT8, UINT8 = QuantType.QInt8, QuantType.QUInt8
QDQ, QOPERATOR = QuantFormat.QDQ, QuantFormat.QOperator
QUANTISERS: Mapping[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "qdq": lambda model: static(model, quant_format=QDQ),
    "qdq-per-channel": lambda model: static(model, quant_format=QDQ, per_channel=True),
    "qdq-mixed": lambda model: static(model, quant_format=QDQ, per_channel=True, activation_type=UINT8),
    "qdq-unsigned": lambda model: static(model, quant_format=QDQ, activation_type=UINT8, weight_type=UINT8),
    "qoperator": lambda model: static(model, quant_format=QOPERATOR),
    "qoperator-per-channel": lambda model: static(model, quant_format=QOPERATOR, per_channel=True),
    "qoperator-unsigned": lambda model: static(model, quant_format=QOPERATOR, activation_type=UINT8, weight_type=UINT8),
    "dynamic": lambda model: dynamic(model),
    "dynamic-per-channel": lambda model: dynamic(model, per_channel=True),
    "dynamic-unsigned": lambda model: dynamic(model, weight_type=UINT8),
}


def quantised(topology: str, kind: str) -> onnx.ModelProto:
    return QUANTISERS[kind](TOPOLOGIES[topology]())


def run(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray], fused: bool = True) -> dict[str, np.ndarray]:
    """The outputs; unless `fused`, each node is run as it stands."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if not fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in model.graph.output]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def oracle(case: Case, keep: Keep) -> onnx.ModelProto:
    """The original with masks: numbers are multiplied by 0, quanta become the zero point of the reading layer."""
    original = proto(case.analysis.model)
    wanted = masks(case.analysis, keep, any_type=True)
    numbers = {name: mask for name, mask in wanted.items() if _dtype(original, case.inputs, name) == np.float32}
    model = masked_model(original, numbers)
    for name in wanted.keys() - numbers.keys():
        _mask_quanta(model.graph, name, wanted[name])
    return model


def _dtype(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray], name: str) -> np.dtype:
    """What a run says: contrib operators have no inference."""
    return dense_mask.run(model, inputs, [name])[name].dtype


def _mask_quanta(graph: onnx.GraphProto, name: str, mask: np.ndarray) -> None:
    for position, node in reversed(list(enumerate(graph.node))):
        if node.op_type in READS and node.input[0] == name and not mask.all():
            constant = f"{node.name}.keeps"
            graph.initializer.append(onnx.numpy_helper.from_array(mask != 0, constant))
            masked = onnx.helper.make_node(
                "Where", [constant, name, node.input[READS[node.op_type]]], [f"{constant}.x"]
            )
            node.input[0] = f"{constant}.x"
            graph.node.insert(position, masked)


def differences(case: Case, keep: Keep) -> tuple[float, float]:
    """The slim model against the scattered wide graph, and against the masked original node by node."""
    slim = proto(remove(case.analysis, keep))
    onnx.checker.check_model(slim, full_check=True)
    wide = proto(scatter(case.analysis, remove(case.analysis, keep), keep))
    masked = oracle(case, keep)
    inputs = case.inputs
    return (
        max_relative_difference(run(slim, inputs), run(wide, inputs)),
        max_relative_difference(run(slim, inputs, fused=False), run(masked, inputs, fused=False)),
    )


def worst_of_removals(case: Case, seed: int = 3) -> float:
    """The largest difference from the wide graph and from the masked one, one group at a time and all together."""
    keeps = [case.analysis.keep_without(removed) for removed in removals(case.analysis.groups, seed)]
    return max(max(differences(case, keep)) for keep in keeps)  # of no group there is none, and that is an error
