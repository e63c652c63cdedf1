"""Cuts one after the other are one cut of the original, and never more than that could be."""

import numpy as np
import pytest
from dense_mask import max_relative_difference, run
from removal import Case, differences, proto, some_of, together
from topologies import TOPOLOGIES, feeds

from onnxprune.composing import OTHERWISE, carried, prepare_again
from onnxprune.config import Config
from onnxprune.dependency import Keep
from onnxprune.errors import ProofFailed
from onnxprune.model_io import load
from onnxprune.passes.remove import remove
from onnxprune.prepare import Data, Prepared, open_data, prepare
from onnxprune.verify import prove

CONFIG = Config(samples=4)


def prepared(name: str) -> tuple[Prepared, Data]:
    model = TOPOLOGIES[name]()
    loaded = load(model).model
    data = open_data(loaded, feeds(model, seed=1, batch=4), CONFIG, matched=False)
    return prepare(loaded, data, CONFIG, fold=True), data


def drawn(found: Prepared, data: Data, rng: np.random.Generator) -> Keep:
    """A quarter of the units of each group, or some of each of its rows."""
    case = Case(found.analysis, data.sample)
    few = {g.name: some_of(g, rng)[: g.width if g.row_count > 1 else max(1, g.width // 4)] for g in found.groups}
    return found.analysis.keep_without(together(case, few))


TWICE = [
    *("resnet-text", "densenet-text", "inception-text", "unet-text", "yolo-head-text", "squeeze-excitation-text"),
    *("shufflenet-text", "tied-convolutions-text", "axis-play-text", "tensorflow-vgg-text"),
    *(f"{name}-torchscript" for name in ("lstm", "shufflenet-v2", "runtime-reshape", "res2net")),
]


@pytest.mark.parametrize("name", [name for name in TWICE if name in TOPOLOGIES])
def test_three_cuts_are_one_cut_of_the_original(name: str) -> None:
    first, data = prepared(name)
    rng = np.random.default_rng(3)
    total = drawn(first, data, rng)
    model = remove(first.analysis, total)
    names = {group.name for group in first.groups}
    for _ in range(2):
        again, where = prepare_again(first, total, model, data, CONFIG, ())
        kept = {group.name: int(group.kept(total).sum()) for group in first.groups}
        assert {group.name: group.width for group in again.groups}.items() <= kept.items()
        assert len({group.name for group in again.groups} & names) == len(again.groups)
        keep = drawn(again, data, rng)
        total = where.composed(total, keep)
        cut = remove(again.analysis, keep)
        model = carried(first.analysis, total, cut)
        outputs = [run(proto(one), dict(data.sample)) for one in (cut, model)]
        assert max_relative_difference(*outputs) < 1e-6
        assert prove(first.analysis, model, total, data.sample) < 1e-5
    assert max(differences(Case(first.analysis, data.sample), total)) < 1e-5
    assert {slot for slot in first.groups if not slot.kept(total).all()}


def test_weights_that_were_trained_between_cuts_are_carried_over() -> None:
    first, data = prepared("resnet-text")
    rng = np.random.default_rng(5)
    total = drawn(first, data, rng)
    model = remove(first.analysis, total)
    for value in model.graph.initializers.values():
        if value.name == "c_w":
            value.const_value = type(value.const_value)(value.const_value.numpy() * 2)  # type: ignore[union-attr,call-arg]
    again, where = prepare_again(first, total, model, data, CONFIG, ())
    keep = drawn(again, data, rng)
    total = where.composed(total, keep)
    found = carried(first.analysis, total, remove(again.analysis, keep))
    plain = remove(first.analysis, total)
    for name, value in plain.graph.initializers.items():
        factor = 2 if name == "c_w" else 1
        after = found.graph.initializers[name].const_value
        assert value.const_value is not None and after is not None
        np.testing.assert_array_equal(after.numpy(), value.const_value.numpy() * factor)


def test_what_would_become_a_layer_of_another_kind_stays() -> None:
    """One channel a group is left of a grouped convolution: it is depthwise now, which the original is not."""
    first, data = prepared("unet-text")
    group = next(group for group in first.groups if group.name == "Conv:d1")
    assert group.rows is not None
    lost = [int(i) for row in range(group.row_count) for i in np.flatnonzero(group.rows == row)[1:]]
    keep = first.analysis.keep_without({group.name: lost})
    again, _ = prepare_again(first, keep, remove(first.analysis, keep), data, CONFIG, ())
    assert "Conv:d1" not in {group.name for group in again.groups}
    assert ("Conv:d1", OTHERWISE) in {(closed.name, closed.reason) for closed in again.closed}


def test_groups_that_were_refused_and_shares_are_those_of_the_original() -> None:
    first, data = prepared("resnet-text")
    keep = drawn(first, data, np.random.default_rng(0))
    again, _ = prepare_again(first, keep, remove(first.analysis, keep), data, CONFIG, {"Conv:a"})
    assert {group.name for group in again.groups} == {group.name for group in first.groups} - {"Conv:a"}
    assert again.first is first
    assert again.costs.before is first.costs
    widths = np.array([group.kept(keep).sum() for group in first.analysis.groups])
    assert float(again.costs.macs(again.costs.full)) == float(first.costs.macs(widths))


def test_weights_of_other_shapes_are_no_cut_of_the_original() -> None:
    first, data = prepared("resnet-text")
    keep = drawn(first, data, np.random.default_rng(0))
    with pytest.raises(ProofFailed, match=r"after several cuts, and .* after one"):
        carried(first.analysis, first.analysis.keep_all(), remove(first.analysis, keep))
