"""The slim model equals the scattered wide graph and, independently, the dense original with masks, for any removal."""

import numpy as np
import onnx
import pytest
from dense_mask import max_relative_difference, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_graphs import random_graphs
from removal import CLOSE, analysed, check_every_removal, differences, proto, some_of, together
from topologies import TOPOLOGIES

quick = settings(max_examples=60, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("folded", [False, True], ids=["as it is", "folded"])
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_any_removal_from_a_topology_leaves_what_masking_leaves(name: str, folded: bool) -> None:
    model = TOPOLOGIES[name]()
    case = analysed(model, folded)
    same = run(proto(case.analysis.model), case.inputs)
    assert max_relative_difference(same, run(model, case.inputs)) < CLOSE
    assert case.analysis.groups
    check_every_removal(case, seed=int(folded))


@pytest.mark.parametrize("name", [name for name in TOPOLOGIES if name.endswith("-text")])
def test_a_removal_chosen_at_one_batch_size_holds_at_another(name: str) -> None:
    two, three = analysed(TOPOLOGIES[name]()), analysed(TOPOLOGIES[name](), batch=3)
    assert two.widths() == three.widths()
    rng = np.random.default_rng(7)
    keep = two.analysis.keep_without({group.name: some_of(group, rng) for group in two.analysis.groups})
    assert max(differences(two, keep, three.inputs)) < CLOSE


@quick
@given(random_graphs(), st.integers(0, 1000), st.booleans())
def test_any_removal_from_a_random_graph_leaves_what_masking_leaves(
    model: onnx.ModelProto, seed: int, folded: bool
) -> None:
    case = analysed(model, folded)
    rng = np.random.default_rng(seed)
    drawn = {group.name: some_of(group, rng) for group in case.analysis.groups}
    assert max(differences(case, case.analysis.keep_without(together(case, drawn)))) < CLOSE
