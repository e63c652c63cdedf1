"""BLAS and LAPACK in place, while other threads work: scipy's wrappers copy, and hold the interpreter's lock."""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cython_blas, cython_lapack

Single = NDArray[np.float32]
Real = NDArray[np.floating[Any]]
_LETTER = {"float32": "s", "float64": "d"}
_PLAIN, _TRANSPOSED = (ctypes.byref(ctypes.c_char(letter)) for letter in (b"N", b"T"))
_LOWER = ctypes.byref(ctypes.c_char(b"L"))


def add_product(total: Single, left: Single, right: Single) -> None:
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


def add_square(total: Single, rows: Single) -> None:
    """Add rowsᵀ · rows of a lot (N, m) to the upper triangle of `total` (m, m); both may be parts of wider arrays."""
    if not rows.size:
        return
    one = ctypes.byref(ctypes.c_float(1.0))
    sizes = (ctypes.byref(ctypes.c_int(n)) for n in (rows.shape[1], len(rows)))
    _routine("ssyrk", 10)(_LOWER, _PLAIN, *sizes, one, _begin(rows), _stride(rows), one, _begin(total), _stride(total))


def factorise(matrix: Real) -> bool:
    """Put the Cholesky factor into the upper triangle of a symmetric matrix (F, F); False where it is not positive.

    Raises ValueError where the matrix is not finite.
    """
    if not np.isfinite(matrix).all():
        raise ValueError("a matrix of infinite or undefined numbers cannot be factorised")
    return _call("potrf", matrix, _LOWER, _size(matrix), _address(matrix), _size(matrix)) == 0


def solve(factor: Real, targets: Real) -> None:
    """Turn the rows `targets` (n, F) into the solutions of the factored system."""
    size = _size(factor)
    rows = ctypes.byref(ctypes.c_int(len(targets)))
    _call("potrs", factor, _LOWER, size, rows, _address(factor), size, _address(targets), size)


def invert(factor: Real) -> None:
    """Turn the factor (F, F) into the inverse of the matrix, in the upper triangle."""
    _call("potri", factor, _LOWER, _size(factor), _address(factor), _size(factor))


def _call(name: str, like: Real, *arguments: Any) -> int:
    """Call a routine in the precision of an array; the last argument of each is `info`, which is returned."""
    info = ctypes.c_int(0)
    if not len(like):
        return 0
    _routine(_LETTER[like.dtype.name] + name, len(arguments) + 1)(*arguments, ctypes.byref(info))
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


def _begin(array: Single) -> Any:
    """Where an array with contiguous rows begins."""
    assert array.dtype == np.float32 and array.strides[1] == array.itemsize
    return ctypes.c_void_p(array.ctypes.data)


def _stride(array: Single) -> Any:
    return ctypes.byref(ctypes.c_int(array.strides[0] // array.itemsize))


def _size(matrix: Real) -> Any:
    return ctypes.byref(ctypes.c_int(len(matrix)))


def _address(array: Real) -> Any:
    """Where a C-contiguous array begins: to LAPACK its rows are columns, its upper triangle the lower one."""
    assert array.flags.c_contiguous and array.flags.writeable
    return ctypes.c_void_p(array.ctypes.data)
