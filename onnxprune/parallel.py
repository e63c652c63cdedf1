"""Independent pieces of numpy work on all cores: one thread a core, each with BLAS held to one thread.

BLAS's own threads meet at a barrier in every product; on a machine with other work each then waits for a slice of the
scheduler (docs/decisions). Pieces that never wait for each other do not.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


_runs = 1


@contextmanager
def divided(runs: int) -> Iterator[None]:
    """So many runs go on at the same time in the body, and each takes its part of the cores."""
    global _runs
    before, _runs = _runs, max(runs, 1)
    try:
        yield
    finally:
        _runs = before


def cores() -> int:
    """How many cores this process may use; one of several runs, its part of them."""
    every = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, every // _runs)


def session_threads() -> int | None:
    """The threads of a session that nobody says more of: the runtime's choice, unless several runs go on."""
    return cores() if _runs > 1 else None


def each(function: Callable[[T], R], items: Iterable[T], cost: Callable[[T], float] = lambda item: 0.0) -> list[R]:
    """`function` of every item, in order; the first error is raised.

    Items of more `cost` are begun first, so that no core is left with a long one at the end.
    """
    pieces = list(items)
    if len(pieces) < 2 or cores() == 1:
        return [function(piece) for piece in pieces]
    longest_first = sorted(range(len(pieces)), key=lambda i: -cost(pieces[i]))
    with ThreadPoolExecutor(cores()) as pool:
        running = {i: pool.submit(function, pieces[i]) for i in longest_first}
        return [running[i].result() for i in range(len(pieces))]


def both(first: Callable[[], T], second: Callable[[], R]) -> tuple[T, R]:
    """What two functions give that run at the same time."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(first)
        done = second()
        return running.result(), done


LANES = 2
"""Always as many, whatever the machine: sums that come together in one order have the same bits."""


def share() -> int:
    """The cores of one lane: the threads of a session that `ahead` runs."""
    return max(1, cores() // LANES)


def ahead(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`function` of each item, in order, as many beside each other as there are lanes, while the caller uses results.

    Item i goes to lane i mod LANES, which takes its items in order: what a lane sums up needs no lock and has the same
    bits each time. No more than LANES are ready before they are asked for. The caller's thread draws the items.
    """
    if _runs > 1 and cores() < LANES:  # one after the other, to the same bits
        yield from map(function, items)
        return
    with ExitStack() as stack:
        lanes = [stack.enter_context(ThreadPoolExecutor(1)) for _ in range(LANES)]
        running: deque[Future[R]] = deque()
        for number, item in enumerate(items):
            running.append(lanes[number % LANES].submit(function, item))
            if len(running) > LANES:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
