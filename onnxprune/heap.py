"""Freed memory stays with the process: the system hands out no page a second time without filling it with zeros."""

import ctypes
import gc
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # malloc.h of glibc
_LARGE = 1 << 30


def keep_freed_memory() -> None:
    """Tell glibc's malloc to keep what is freed for what is allocated next; elsewhere nothing happens.

    It holds for the whole process, so it is for programs, not for libraries. A run opens a session and makes arrays
    of a few megabytes for each layer; as glibc is set it gives those back each time, which took a twentieth of the run.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for option, value in ((_TRIM_THRESHOLD, _LARGE), (_MMAP_THRESHOLD, _LARGE), (_ARENA_MAX, 1)):
            mallopt(option, value)


def collect_seldom() -> None:
    """Look for cycles of objects forty times as seldom as Python does by itself; for programs, not for libraries.

    A graph of 20,000 nodes is millions of objects that stay, and going through them again and again took two fifths
    of the time.
    """
    gc.freeze()
    gc.set_threshold(40 * 700, 10, 10)


def give_back() -> None:
    """Return what is freed to the system after all: a large model leaves gigabytes of it."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
