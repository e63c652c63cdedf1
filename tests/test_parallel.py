"""Pieces of work on all cores: the results in order, errors not lost."""

import threading
import time
from collections.abc import Iterator

import pytest

from onnxprune import parallel
from onnxprune.parallel import LANES, ahead, both, cores, each, share


@pytest.mark.parametrize("count", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: count)
    assert each(lambda n: n * n, iter(range(50))) == [n * n for n in range(50)]
    assert each(str, []) == []
    assert each(str, [7]) == ["7"]


@pytest.mark.parametrize("count", [1, 3])
def test_the_first_error_is_raised(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: count)

    def fail(number: int) -> int:
        if number % 2:
            raise ValueError(f"piece {number}")
        return number

    with pytest.raises(ValueError, match="piece 1"):
        each(fail, range(6))


def test_the_longest_pieces_begin_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    begun: list[int] = []
    assert each(lambda n: (begun.append(n), -n)[1], [3, 1, 9, 5], float) == [-3, -1, -9, -5]
    assert set(begun[:2]) == {9, 5} and begun[-1] in (1, 3)


def test_pieces_run_beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    meet = threading.Barrier(2, timeout=5)
    assert each(lambda n: (meet.wait(), n)[1], [1, 2]) == [1, 2]


def test_work_may_be_cut_up_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    assert each(lambda n: sum(each(lambda m: m * n, range(4))), range(4)) == [0, 6, 12, 18]


def test_cores_are_those_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cores() >= 1
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert cores() == 3
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert cores() == 1


def test_results_ahead_come_in_order_and_no_more_are_begun_than_are_soon_wanted() -> None:
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for number in range(20):
            drawn.append(number)
            yield number

    results = ahead(lambda n: n * n, items())
    for number in range(20):
        assert next(results) == number**2
        assert len(drawn) <= number + 1 + LANES
    assert next(results, None) is None


def test_both_run_at_the_same_time_and_an_error_of_either_is_raised() -> None:
    meet = threading.Barrier(2, timeout=30)
    assert both(lambda: (meet.wait(), "a")[1], lambda: (meet.wait(), "b")[1]) == ("a", "b")
    for failing in ((lambda: 1 / 0, lambda: 1), (lambda: 1, lambda: 1 / 0)):
        with pytest.raises(ZeroDivisionError):
            both(*failing)


def test_results_ahead_are_made_beside_each_other() -> None:
    meet = threading.Barrier(LANES, timeout=30)
    assert list(ahead(lambda n: (meet.wait(), n)[1], range(2 * LANES))) == list(range(2 * LANES))


def test_each_lane_takes_its_own_items_in_order_however_long_they_take() -> None:
    taken: dict[int, list[int]] = {}

    def take(number: int) -> None:
        time.sleep(0.01 * (number % 3 == 0))
        taken.setdefault(threading.get_ident(), []).append(number)

    list(ahead(take, range(20)))
    assert sorted(taken.values()) == [list(range(lane, 20, LANES)) for lane in range(LANES)]


def test_an_error_ahead_is_raised_in_its_turn() -> None:
    def fail(number: int) -> int:
        if number == 3:
            raise ValueError(f"item {number}")
        return number

    results = ahead(fail, range(9))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="item 3"):
        next(results)


@pytest.mark.parametrize(("count", "threads"), [(1, 1), (2, 1), (8, 8 // LANES)])
def test_the_lanes_share_the_cores(count: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: count)
    assert share() == threads
