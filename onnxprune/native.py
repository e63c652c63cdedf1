"""BLAS and LAPACK in place, while other threads work: scipy's wrappers copy, and hold the interpreter's lock."""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cython_blas, cython_lapack

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Real = F32 | F64
_BLOCK = 256
"""Rows and columns that stay in the cache while they are mirrored."""
_PLAIN, _TRANSPOSED = (ctypes.byref(ctypes.c_char(letter)) for letter in (b"N", b"T"))
_LOWER = ctypes.byref(ctypes.c_char(b"L"))


def add_product(total: F32, left: F32, right: F32) -> None:
    """Add leftᵀ · right of two lots of rows (N, m) and (N, n) to `total` (m, n); all may be parts of wider arrays."""
    if not (total.size and len(left)):
        return
    one = ctypes.byref(ctypes.c_float(1.0))
    sizes = (ctypes.byref(ctypes.c_int(n)) for n in (right.shape[1], left.shape[1], len(left)))
    _routine("sgemm", 13)(
        _PLAIN,
        _TRANSPOSED,
        *sizes,
        one,
        _begin(right),
        _stride(right),
        _begin(left),
        _stride(left),
        one,
        _begin(total),
        _stride(total),
    )


def add_square(total: F32, rows: F32) -> None:
    """Add rowsᵀ · rows of a lot (N, m) to the upper triangle of `total` (m, m); both may be parts of wider arrays."""
    if not rows.size:
        return
    one = ctypes.byref(ctypes.c_float(1.0))
    sizes = (ctypes.byref(ctypes.c_int(n)) for n in (rows.shape[1], len(rows)))
    _routine("ssyrk", 10)(_LOWER, _PLAIN, *sizes, one, _begin(rows), _stride(rows), one, _begin(total), _stride(total))


def factorise(matrix: F64) -> bool:
    """Put the Cholesky factor into the upper triangle of a symmetric matrix (F, F); False where it is not positive.

    Raises ValueError where the matrix is not finite.
    """
    if not np.isfinite(matrix).all():
        raise ValueError("a matrix of infinite or undefined numbers cannot be factorised")
    return _lapack("dpotrf", _LOWER, _size(matrix), _address(matrix), _size(matrix)) == 0 if len(matrix) else True


def solve(factor: F64, targets: F64) -> None:
    """Turn the rows `targets` (n, F) into the solutions of the factored system."""
    if targets.size:
        rows, size = _size(targets), _size(factor)
        _lapack("dpotrs", _LOWER, size, rows, _address(factor), size, _address(targets), size)


def invert(factor: Real) -> None:
    """Turn the factor (F, F) into the inverse of the matrix."""
    if len(factor):
        name = "spotri" if factor.dtype == np.float32 else "dpotri"
        _lapack(name, _LOWER, _size(factor), _address(factor), _size(factor))
        mirror(factor)


def mirror(matrix: Real) -> None:
    """Make a matrix symmetric that has its upper triangle."""
    for start in range(0, len(matrix), _BLOCK):
        inside = slice(start, start + _BLOCK)
        corner = matrix[inside, inside]
        corner[:] = np.triu(corner) + np.triu(corner, 1).T
        matrix[inside.stop :, inside] = matrix[inside, inside.stop :].T


def _lapack(name: str, *arguments: Any) -> int:
    """Call a routine; the last argument of each is `info`, which is returned."""
    info = ctypes.c_int(0)
    _routine(name, len(arguments) + 1)(*arguments, ctypes.byref(info))
    return info.value


@cache
def _routine(name: str, arguments: int) -> Callable[..., None]:
    """The routine behind scipy's Cython interface; ctypes calls it without the lock."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    title = ctypes.pythonapi.PyCapsule_GetName
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    title.restype, title.argtypes = ctypes.c_char_p, (ctypes.py_object,)
    capsule = (cython_blas.__pyx_capi__ | cython_lapack.__pyx_capi__)[name]
    address: Any = pointer(capsule, title(capsule))
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * arguments)(address)


def _begin(array: F32) -> Any:
    """Where an array with contiguous rows begins."""
    assert array.dtype == np.float32 and array.strides[1] == array.itemsize
    return ctypes.c_void_p(array.ctypes.data)


def _stride(array: F32) -> Any:
    return ctypes.byref(ctypes.c_int(array.strides[0] // array.itemsize))


def _size(matrix: Real) -> Any:
    return ctypes.byref(ctypes.c_int(len(matrix)))


def _address(array: Real) -> Any:
    """Where a C-contiguous array begins: to LAPACK its rows are columns, its upper triangle the lower one."""
    assert array.flags.c_contiguous and array.flags.writeable
    return ctypes.c_void_p(array.ctypes.data)
