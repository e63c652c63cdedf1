"""What a run tells while it works: stages and their steps. The pipeline speaks, the command line draws."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Protocol

Tick = Callable[[], None]


class Progress(Protocol):
    """Told when a stage starts (`steps` 0: not known), moves one step on, and ends."""

    def start(self, stage: str, steps: int) -> None:
        """A stage starts."""

    def tick(self) -> None:
        """One of its steps is done."""

    def tell(self, text: str) -> None:
        """A few words on how it goes."""

    def stop(self) -> None:
        """The stage ends."""


class Silent:
    """Progress that nobody watches."""

    def start(self, stage: str, steps: int) -> None:
        """Say nothing."""

    def tick(self) -> None:
        """Say nothing."""

    def tell(self, text: str) -> None:
        """Say nothing."""

    def stop(self) -> None:
        """Say nothing."""


class Stages:
    """Runs stages under a progress and notes how long each took."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._part = ""
        self.seconds: dict[str, float] = {}

    def tell(self, text: str) -> None:
        """A few words on how the stage goes."""
        self._progress.tell(text)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Stages in the body are shown with this name behind their own; the seconds of all parts are added up."""
        self._part = name
        try:
            yield
        finally:
            self._part = ""

    @contextmanager
    def stage(self, name: str, steps: int = 0) -> Iterator[Tick]:
        """Time the body as one stage; it is given the function that ticks."""
        start = perf_counter()
        self._progress.start(f"{name} {self._part}".rstrip(), steps)
        try:
            yield self._progress.tick
        finally:
            self._progress.stop()
            self.seconds[name] = round(self.seconds.get(name, 0.0) + perf_counter() - start, 3)
