"""Values that runs have in common: made once, let go when the last has them; and cores that runs divide."""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from onnxprune.calibration.recorded import Recorded
from onnxprune.config import Config
from onnxprune.parallel import LANES, ahead, cores, divided, session_threads
from onnxprune.sharing import IGNORED, Alone, Shared


class Value:
    """Something that can be told from another, and seen to go."""


def test_what_does_not_depend_on_the_budget_is_made_once_for_all_budgets() -> None:
    runs = [Config(method=method, macs=share) for method in ("obs", "lasso") for share in (0.7, 0.5)]
    shared = Shared(runs)
    swept = [shared.once("collected", run, Value) for run in runs]
    shared = Shared(runs)
    scored = [shared.once("scored", run, Value) for run in runs]
    assert len({id(value) for value in swept}) == 1
    assert [scored[0] is scored[1], scored[2] is scored[3], scored[0] is scored[2]] == [True, True, False]


def test_a_method_whose_scores_depend_on_the_budget_shares_none() -> None:
    runs = [Config(method="l0", macs=share) for share in (0.7, 0.5)]
    shared = Shared(runs)
    first, second = (shared.once("scored", run, Value) for run in runs)
    assert first is not second
    assert Shared(runs).once("collected", runs[0], Value) is not None


def test_data_options_part_what_is_shared() -> None:
    runs = [Config(seed=seed) for seed in (0, 1)]
    shared = Shared(runs)
    assert shared.once("prepared", runs[0], Value) is not shared.once("prepared", runs[1], Value)
    assert shared.others(runs[0]) == [runs[0]]


def test_every_ignored_option_is_one() -> None:
    assert set().union(*IGNORED.values()) <= Config.model_fields.keys()
    for matters in ("samples", "batch_size", "seed", "keep", "only", "open", "input_shape", "mean", "std", "sampler"):
        assert not any(matters in ignored for ignored in IGNORED.values())


def test_a_value_goes_with_the_last_run_that_needs_it() -> None:
    runs = [Config(macs=share) for share in (0.7, 0.5)]
    shared = Shared(runs)
    seen = weakref.ref(shared.once("scored", runs[0], Value))
    gc.collect()
    assert seen() is not None
    assert shared.once("scored", runs[1], Value) is not None
    gc.collect()
    assert seen() is None
    assert Alone().once("scored", runs[0], Value) is not Alone().once("scored", runs[0], Value)


def test_threads_wait_for_the_one_that_makes_it() -> None:
    runs = [Config(macs=share) for share in (0.9, 0.8, 0.7, 0.6)]
    shared, made, together = Shared(runs), [], threading.Barrier(4)

    def make() -> Value:
        made.append(Value())
        return made[-1]

    def ask(run: Config) -> Value:
        together.wait()
        return shared.once("collected", run, make)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, runs))
    assert len(made) == 1
    assert all(value is made[0] for value in found)


def test_runs_divide_the_cores_and_lanes_then_give_the_same() -> None:
    every = cores()
    plain = list(ahead(lambda n: n * n, range(5)))
    assert session_threads() is None
    with divided(every):
        assert cores() == 1
        assert session_threads() == 1
        names: set[str] = set()
        squares = list(ahead(lambda n: (names.add(threading.current_thread().name), n * n)[1], range(5)))  # type: ignore[func-returns-value]
        assert len(names) == (1 if every > 1 else LANES)
    assert squares == plain
    assert cores() == every


def test_threads_read_one_recording_side_by_side() -> None:
    class Numbers:
        samples, synthetic, description = 40, True, "numbers"

        def batches(self):  # type: ignore[no-untyped-def]
            return ({"x": np.full(3, n)} for n in range(40))

    recorded = Recorded(Numbers())
    together = threading.Barrier(4)

    def read(_: int) -> list[int]:
        together.wait()
        return [int(feeds["x"][0]) for feeds in recorded.batches()]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, range(4))) == [list(range(40))] * 4
