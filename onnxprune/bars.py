"""Progress bars on standard error, for stages that take longer than a second."""

from collections.abc import Iterable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

SLOW_SECONDS = 1.0


class _Slow(Progress):
    """Draws only the tasks that have run for a second."""

    def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
        return super().make_tasks_table([task for task in tasks if (task.elapsed or 0.0) > SLOW_SECONDS])


class Bars:
    """A `onnxprune.progress.Progress` that draws; use it as a context manager."""

    def __init__(self, force: bool) -> None:
        console = Console(stderr=True, force_terminal=True if force else None)
        columns = (TextColumn("{task.description:>9}"), BarColumn(), TextColumn("{task.fields[count]}"))
        self._bars = _Slow(*columns, TimeElapsedColumn(), console=console, transient=True)
        self._task: TaskID | None = None
        self._steps = self._done = 0
        self._text = ""

    def __enter__(self) -> "Bars":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def start(self, stage: str, steps: int) -> None:
        """Add a bar; one that pulses where the steps are not known."""
        self._steps, self._done, self._text = steps, 0, ""
        self._task = self._bars.add_task(stage, total=steps or None, count=self._count())

    def tick(self) -> None:
        """Move it on."""
        self._done += 1
        if self._task is not None:
            self._bars.update(self._task, completed=self._done, count=self._count())

    def tell(self, text: str) -> None:
        """Show a few words beside the count."""
        self._text = text
        if self._task is not None:
            self._bars.update(self._task, count=self._count())

    def stop(self) -> None:
        """Take it away."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = None

    def _count(self) -> str:
        count = f"{self._done}/{self._steps}" if self._steps else ""
        return "  ".join(part for part in (count, self._text) if part)
