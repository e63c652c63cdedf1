"""Whole allocations: what they do to the outputs all at once, and which of several is taken."""

from collections.abc import Sequence

import numpy as np
import pytest
from cli_case import tiny_inputs, tiny_model
from sweep_case import Batches
from test_choose import Case, case

from onnxprune.allocate import Choice, Widths
from onnxprune.calibration.collect import collect
from onnxprune.calibration.sampling import Sampling
from onnxprune.choose import choose
from onnxprune.config import Config
from onnxprune.errors import BudgetNotMet
from onnxprune.prepare import Data
from onnxprune.probe import open_prober
from onnxprune.ranks import WHOLE, Factorable, factorable
from onnxprune.together import best_together, damage_together, some_batches

GROUP, PRODUCT = Choice([1, 2, 4], [0.6, 0.2, 0.0]), Choice([250, 500, WHOLE], [0.5, 0.3, 0.0])


def cost(widths: np.ndarray) -> np.ndarray:
    return np.asarray((widths[..., 0] / 4 + widths[..., 1] / WHOLE) / 2)


def test_what_suffers_least_as_a_whole_is_taken_not_what_adds_up_to_least() -> None:
    seen: list[list[int]] = []

    def together(allocations: Sequence[Widths]) -> list[float]:
        seen.extend(widths.tolist() for widths in allocations)
        return [float(widths[0] == 4) for widths in allocations]  # whatever cuts the group is better

    found = best_together([GROUP, PRODUCT], 1, cost, 0.75, together)
    assert [4, 500] in seen and [2, WHOLE] in seen  # products alone, and widths alone
    assert len({tuple(one) for one in seen}) == len(seen)
    assert found.tolist() == [2, WHOLE]


def test_where_one_kind_is_not_enough_the_others_are_weighed() -> None:
    found = best_together([GROUP, PRODUCT], 1, cost, 0.4, lambda some: [0.0 for _ in some])
    assert cost(found) <= 0.4
    with pytest.raises(BudgetNotMet):
        best_together([GROUP, PRODUCT], 1, cost, 0.2, lambda some: [0.0 for _ in some])


def test_a_mix_that_takes_longer_than_either_kind_alone_is_not_tried() -> None:
    tried: list[list[int]] = []

    def together(allocations: Sequence[Widths]) -> list[float]:
        tried.extend(widths.tolist() for widths in allocations)
        return [0.0 for _ in allocations]

    def effort(widths: np.ndarray) -> np.ndarray:
        """The middle product beside a cut takes longer than anything else."""
        return np.asarray(cost(widths) + (widths[..., 0] < 4) * (widths[..., 1] == 500))

    choices = [GROUP, Choice(PRODUCT.widths, [0.8, 0.3, 0.0])]
    best_together(choices, 1, cost, 0.65, together)
    assert [2, 500] in tried
    tried.clear()
    best_together(choices, 1, cost, 0.65, together, effort)
    assert [4, 250] in tried and [1, WHOLE] in tried
    assert max(effort(np.array(tried))) <= 0.65


def test_with_one_kind_alone_nothing_is_run() -> None:
    def never(allocations: Sequence[Widths]) -> list[float]:
        raise AssertionError

    assert best_together([GROUP], 1, lambda w: w[..., 0] / 4, 0.5, never).tolist() == [2]


@pytest.fixture(scope="module")
def made() -> tuple[Case, list[Factorable]]:
    found = case(tiny_model(), tiny_inputs(48))
    sampling = Sampling(found.data.source.samples, found.data.batches, len(found.layers), found.analysis.trace, 0)
    names = frozenset(layer.name for layer in found.layers)
    collected = collect(found.analysis.model, found.layers, names, found.data.source, sampling)
    products = factorable(found.analysis, found.layers, collected.statistics, Config(conv="auto"), 1)
    return found, products


def damages(made: tuple[Case, list[Factorable]], allocations: list[list[int]]) -> list[float]:
    found, products = made
    batches = list(some_batches(found.data, 20))
    feeds = {"x": np.concatenate([batch["x"] for batch in batches])}
    prober = open_prober(found.analysis, found.layers, found.scored, feeds, [one.layer for one in products])
    widths = [np.array(one, np.int64) for one in allocations]
    return damage_together(found.analysis, prober, found.scored, products, batches, widths)


def test_nothing_changed_does_no_damage_and_cuts_with_products_do_most(made: tuple[Case, list[Factorable]]) -> None:
    found, products = made
    full, sizes = [one.group.width for one in found.scored], [one.sizes for one in products]
    whole, small = [WHOLE] * len(products), [own[0] for own in sizes]
    none, cuts, split, both = damages(made, [[*full, *whole], [4, 4, *whole], [*full, *small], [4, 4, *small]])
    assert none == pytest.approx(0, abs=1e-9)
    assert 0 < cuts < both and split > 0


def test_a_single_cut_or_product_does_what_its_probe_says(made: tuple[Case, list[Factorable]]) -> None:
    found, products = made
    full, whole = [one.group.width for one in found.scored], [WHOLE] * len(products)
    feeds = {"x": np.concatenate([batch["x"] for batch in some_batches(found.data, 20)])}
    prober = open_prober(found.analysis, found.layers, found.scored, feeds, [one.layer for one in products])
    one, size = products[1], products[1].sizes[1]
    constants = [one.layer.linear.weight, one.layer.bias]
    alone = prober.errors([v for v in constants if v is not None], [one.feeds(size, prober.constants)])
    cut = prober.damage([[(found.scored[0], 4)]])
    together = damages(made, [[*full, WHOLE, size, *whole[2:]], [4, full[1], *whole]])
    assert together == pytest.approx([*alone, *cut], rel=1e-3)


def test_some_batches_are_what_was_laid_aside_and_then_the_rest() -> None:
    def batch(*rows: int) -> dict[str, np.ndarray]:
        return {"x": np.array(rows)}

    for fixed, expected in ((False, [[1, 2], [3]]), (True, [[1, 2], [3, 4]])):
        data = Data(Batches([batch(3, 4), batch(5, 6)]), Batches([batch(1, 2)]), True, {}, {"x": 0}, fixed, 2, ())
        assert [feeds["x"].tolist() for feeds in some_batches(data, 3)] == expected


def test_the_allocator_takes_products_into_its_budget(made: tuple[Case, list[Factorable]]) -> None:
    found, products = made
    args = (found.analysis, [], found.costs, found.layers, found.data, Config(macs=0.6, align=1), 1)
    chosen = choose(*args, products=products)
    assert chosen.forms
    assert set(chosen.forms) <= {one.layer.name for one in products}
    assert all(form in one.forms.values() for one in products if (form := chosen.forms.get(one.layer.name)))
