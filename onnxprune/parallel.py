"""Independent pieces of numpy work on all cores: one thread a core, each with BLAS held to one thread.

BLAS's own threads meet at a barrier in every product; on a machine with other work each then waits for a slice of the
scheduler (docs/decisions). Pieces that never wait for each other do not.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`function` of every item, in order; the first error is raised."""
    pieces = list(items)
    if len(pieces) < 2 or cores() == 1:
        return [function(piece) for piece in pieces]
    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(function, pieces))


def alongside(function: Callable[[int, T], None], items: Iterable[tuple[int, T]]) -> None:
    """`function` of each item in turn, on another thread, while the next item is being made; errors are raised."""
    with ThreadPoolExecutor(1) as pool:
        running = None
        for number, item in items:
            if running is not None:
                running.result()
            running = pool.submit(function, number, item)
        if running is not None:
            running.result()
