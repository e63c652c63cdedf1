"""A choice of widths becomes a plan, and one that cannot be proved is found before it is used."""

import math
from typing import Any

import numpy as np
import pytest
from cli_case import tiny_inputs, tiny_model

from onnxprune import planning
from onnxprune.choose import Chosen
from onnxprune.config import Config
from onnxprune.criteria import lookup
from onnxprune.criteria.problem import Options
from onnxprune.errors import ProofFailed
from onnxprune.model_io import load
from onnxprune.plan import keep_of
from onnxprune.planning import keep_of_widths, make_plan, provable, reader_errors
from onnxprune.prepare import Data, Prepared, open_data, prepare
from onnxprune.rebuild import Rebuilt
from onnxprune.scoring import Scored, score

CONFIG = Config(method="magnitude", rebuild="none")


@pytest.fixture
def case() -> tuple[Prepared, Data, list[Scored]]:
    model = load(tiny_model()).model
    data = open_data(model, tiny_inputs(), CONFIG)
    prepared = prepare(model, data, CONFIG, fold=False)
    scored = score(prepared.analysis, None, lookup("magnitude"), Options(), 0, prepared.groups)
    return prepared, data, scored


def chosen(scored: list[Scored], *widths: int) -> Chosen:
    return Chosen(tuple(one.group.name for one in scored), np.array(widths), "by hand")


Case = tuple[Prepared, Data, list[Scored]]


def test_each_group_keeps_the_units_that_its_selection_names(case: Case) -> None:
    prepared, _, scored = case
    keep = keep_of_widths(prepared.analysis, scored, chosen(scored, 3, 8))
    first, second = (one.group for one in scored)
    assert np.flatnonzero(keep[first.units]).tolist() == scored[0].selection.keep(3).tolist()
    assert keep[second.units].all() and keep[-1]


def test_the_plan_holds_the_groups_that_lose_and_reads_back_as_the_choice(case: Case) -> None:
    prepared, _, scored = case
    by_hand = chosen(scored, 3, 8)
    keep = keep_of_widths(prepared.analysis, scored, by_hand)
    first = scored[0].group.name
    plan = make_plan(prepared, keep, {first: 0.25}, CONFIG)
    (only,) = plan.groups
    assert (only.name, only.width, only.method, only.error) == ("Conv:h0", 8, "magnitude", 0.25)
    assert only.kept == tuple(scored[0].selection.keep(3).tolist())
    assert {(cut.tensor, cut.axis) for cut in only.cuts} == {("c0_w", 0), ("c0_b", 0), ("c1_w", 1)}
    assert all(cut.kept == only.kept for cut in only.cuts)
    np.testing.assert_array_equal(keep_of(plan, prepared.analysis), keep)


def test_what_can_be_proved_names_no_group(case: Case) -> None:
    prepared, data, scored = case
    keep = keep_of_widths(prepared.analysis, scored, chosen(scored, 3, 4))
    assert provable(prepared.analysis, keep, scored, data.sample) == {}


def fails_where(monkeypatch: pytest.MonkeyPatch, bad: Any) -> None:
    def prove(analysis: Any, slim: Any, keep: np.ndarray, feeds: Any) -> float:
        if bad(keep):
            raise ProofFailed("output 'y' differs")
        return 0.0

    monkeypatch.setattr(planning, "prove", prove)


def test_a_group_that_cannot_be_proved_is_named_with_the_reason(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, data, scored = case
    keep = keep_of_widths(prepared.analysis, scored, chosen(scored, 3, 4))
    second = scored[1].group.units
    fails_where(monkeypatch, lambda choice: not choice[second].all())
    failed = provable(prepared.analysis, keep, scored, data.sample)
    assert failed == {"Conv:h1": "its removal cannot be proved: output 'y' differs"}


def test_of_groups_that_fail_only_together_the_later_stays_whole(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, data, scored = case
    keep = keep_of_widths(prepared.analysis, scored, chosen(scored, 3, 4))
    fails_where(monkeypatch, lambda choice: not any(choice[one.group.units].all() for one in scored))
    failed = provable(prepared.analysis, keep, scored, data.sample)
    assert failed == {"Conv:h1": "its removal cannot be proved together with that of others: output 'y' differs"}


def test_a_groups_error_is_the_largest_that_the_rebuild_left_in_a_reader(case: Case) -> None:
    prepared, _, scored = case
    first, second = (one.group for one in scored)
    readers = [[linear.node.name or "" for linear in group.readers] for group in (first, second)]
    solved = [Rebuilt(readers[0][0], 0.5, 0.25), *(Rebuilt(name, 1.0, math.nan) for name in readers[1])]
    assert reader_errors(prepared, solved) == {first.name: 0.25}
    assert reader_errors(prepared, []) == {}
