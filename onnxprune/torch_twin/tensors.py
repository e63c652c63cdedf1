"""Between the tensors of a graph and torch's: the same bits, those of short types included."""

from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from onnxprune.graph import Array

TORCH: dict[int, torch.dtype] = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.UINT16: torch.uint16,
    ir.DataType.UINT32: torch.uint32,
    ir.DataType.UINT64: torch.uint64,
    ir.DataType.BOOL: torch.bool,
    ir.DataType.COMPLEX64: torch.complex64,
    ir.DataType.COMPLEX128: torch.complex128,
    ir.DataType.FLOAT8E4M3FN: torch.float8_e4m3fn,
    ir.DataType.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    ir.DataType.FLOAT8E5M2: torch.float8_e5m2,
    ir.DataType.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
    # torch has no numbers of fewer bits: bytes hold them.
    ir.DataType.INT4: torch.int8,
    ir.DataType.UINT4: torch.uint8,
    ir.DataType.INT2: torch.int8,
    ir.DataType.UINT2: torch.uint8,
}
"""torch's name of each of ONNX's types."""
LEARNED = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
"""Types that can have a gradient."""
_OWN = {torch.bfloat16, torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz}
"""Types that numpy does not have of itself, but as bits of another."""
_BITS = {1: (np.uint8, torch.uint8), 2: (np.int16, torch.int16)}


def to_tensor(array: Array) -> Any:
    """A copy as a tensor; text, and types that torch does not have, stay arrays."""
    if array.dtype.kind in "OSU":
        texts = [text.decode() if isinstance(text, bytes) else str(text) for text in array.reshape(-1)]
        return np.array(texts, object).reshape(array.shape)
    kind = TORCH.get(ir.DataType.from_numpy(array.dtype))
    if kind is None:
        return array
    if kind in _OWN:
        return torch.from_numpy(np.array(array).view(_BITS[array.dtype.itemsize][0])).view(kind)
    short = array.dtype.kind == "V"  # of fewer than eight bits
    held = {torch.int8: np.int8, torch.uint8: np.uint8}
    return torch.from_numpy(np.array(array, dtype=held[kind] if short else None, order="C"))


def to_array(tensor: Any) -> Array:
    """A tensor's contents as an array of the same type."""
    if not isinstance(tensor, torch.Tensor):
        return np.asarray(tensor)
    plain = tensor.detach().cpu().contiguous()
    if plain.dtype in _OWN:
        kind = next(ir.DataType(number) for number, own in TORCH.items() if own == plain.dtype)
        return np.asarray(plain.view(_BITS[plain.element_size()][1]).numpy()).view(kind.numpy())
    return np.asarray(plain.numpy())
