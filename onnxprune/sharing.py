"""What runs on one model and data have in common: made by the first that asks, kept for the others, then let go."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Literal, TypeVar

from onnxprune.config import BUDGETS, TUNING, Config, panel
from onnxprune.criteria.scored import BUDGETED

T = TypeVar("T")
Kind = Literal["prepared", "judged", "collected", "scored", "probed"]

TO_CHOOSE = {*BUDGETS, "ratios", "allocate", "align", "rebuild", "max_drop"}
AT_THE_END = {n for n, of in Config.model_fields.items() if panel(of) in (TUNING, "Measuring")}
METHOD = {"method", "norm", "forward", "ablation", "fisher_cost", "frl"}
METHOD |= {"fc", "conv", "rank", "energy", "init", "ger_epochs"}
IGNORED: dict[Kind, frozenset[str]] = {
    "prepared": frozenset({*TO_CHOOSE, *AT_THE_END, *METHOD, "memory"} - {"ratios"}),
    "judged": frozenset({*TO_CHOOSE, *AT_THE_END, *METHOD, "memory"}),
    "collected": frozenset({*TO_CHOOSE, *AT_THE_END, *METHOD}),
    "scored": frozenset({*TO_CHOOSE, *AT_THE_END} - {"align"}),
    "probed": frozenset({*TO_CHOOSE, *AT_THE_END} - {"align", "ratios", "allocate"}),
}
"""Options that something does not depend on; one that is not listed here is taken to matter."""


class Alone:
    """A run that shares with no other; its model is `timed` when it is done."""

    timed = True

    def __init__(self, runs: Sequence[Config] = ()) -> None:
        self.runs = tuple(runs)

    def once(self, kind: Kind, config: Config, make: Callable[[], T], *of: Hashable) -> T:
        """What `make` makes."""
        return make()

    def others(self, config: Config) -> list[Config]:
        """The runs whose statistics may come from the same sweep over the data."""
        wanted = _matter("collected", config)
        return [run for run in self.runs if _matter("collected", run) == wanted]


ALONE = Alone()


@dataclass(eq=False)
class _Entry:
    left: int
    making: Lock = field(default_factory=Lock)
    made: bool = False
    value: Any = None


class Shared(Alone):
    """Several `runs`: what some of them have in common is made once, and let go when the last has asked for it.

    Runs may lie in several threads. Values are not copied: nobody changes them. Models are timed by who starts the
    runs, when all of them are done.
    """

    timed = False

    def __init__(self, runs: Sequence[Config]) -> None:
        super().__init__(runs)
        self._entries: dict[Hashable, _Entry] = {}
        self._looking = Lock()

    def once(self, kind: Kind, config: Config, make: Callable[[], T], *of: Hashable) -> T:
        """What `make` makes, or made before for a run whose options are alike as far as they matter to this `kind`.

        `of` is what else it depends on.
        """
        options = _matter(kind, config)
        key = (kind, options, *of)
        with self._looking:
            entry = self._entries.get(key)
            if entry is None:
                uses = sum(_matter(kind, other) == options for other in self.runs)
                entry = self._entries[key] = _Entry(uses)
            entry.left -= 1
            if entry.left <= 0:
                del self._entries[key]
        with entry.making:
            if not entry.made:
                entry.value, entry.made = make(), True
            found: T = entry.value
            return found


def _matter(kind: Kind, config: Config) -> str:
    ignored = IGNORED[kind]
    if config.method in BUDGETED and kind in ("scored", "probed"):
        ignored = ignored - {*BUDGETS, "ratios"}
    return config.model_dump_json(exclude=set(ignored))
