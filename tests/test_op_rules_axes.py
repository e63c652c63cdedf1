"""What the rules of normalisations by group, of blocks, and of operators along an axis say, with values."""

import numpy as np
import pytest
from graph_text import integers
from op_case import balanced, facts_of, fixed, linear, outs, params, sizes, ties

from onnxprune.op_rules.facts import Settled

IMAGE = {"x": (2, 4, 6, 6)}
FOUR = [0, 1, 2, 3]
ON_CHANNELS = {"x": {(1,): FOUR}}


def test_group_normalisation_ties_each_group_and_counts_groups() -> None:
    text = "y = GroupNormalization <num_groups=2> (x, g, b)"
    facts = facts_of(text, IMAGE, ON_CHANNELS, {"g": (4,), "b": (4,)}, opset=21)
    assert ties(facts) == [([[0], [2]], [[1], [3]])]
    assert sizes(facts) == [("num_groups", None, [0, 2], None)]
    assert (outs(facts), params(facts, 1)) == ({(1,): FOUR}, {(0,): (FOUR, False)})


@pytest.mark.parametrize(
    ("mode", "rows"), [("DCR", [[0, 2, 4, 6], [1, 3, 5, 7]]), ("CRD", [[0, 1, 2, 3], [4, 5, 6, 7]])]
)
def test_depth_to_space_ties_the_channels_of_a_block_by_its_mode(mode: str, rows: list[list[int]]) -> None:
    text = f'y = DepthToSpace <blocksize=2, mode="{mode}"> (x)'
    facts = facts_of(text, {"x": (2, 8, 3, 3)}, {"x": {(1,): list(range(8))}})
    assert outs(facts) == {(1,): [rows[0][0], rows[1][0]]}
    assert ties(facts) == [([[row[0]] * 3 for row in rows], [row[1:] for row in rows])]


def test_space_to_depth_lays_all_channels_at_each_place() -> None:
    facts = facts_of("y = SpaceToDepth <blocksize=2> (x)", IMAGE, ON_CHANNELS)
    assert outs(facts) == {(1,): FOUR * 4}
    assert fixed(facts_of("y = SpaceToDepth <blocksize=2> (x)", IMAGE, {"x": {(3,): [4, 5, 6, 7, 8, 9]}})) == [
        4,
        5,
        6,
        7,
        8,
        9,
    ]


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("MeanVarianceNormalization <axes=[0,2,3]> (x)", {}),
        ("CumSum (x, k)", {"k": np.int64(-1)}),
        ("Compress <axis=-2> (x, k)", {"k": np.array([True, False, True])}),
        ("Trilu (x)", {}),
    ],
)
def test_other_axes_pass_what_works_along_one(text: str, weights: dict) -> None:
    facts = facts_of(f"y = {text}", IMAGE, ON_CHANNELS, weights)
    assert (outs(facts), fixed(facts)) == ({(1,): FOUR}, [])


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("MeanVarianceNormalization <axes=[1]> (x)", {}),
        ("LRN <size=3> (x)", {}),
        ("CumSum (x, k)", {"k": np.int64(1)}),
        ("Compress (x, k)", {"k": np.array([True, False, True])}),
    ],
)
def test_the_axis_itself_is_fixed(text: str, weights: dict) -> None:
    assert fixed(facts_of(f"y = {text}", IMAGE, ON_CHANNELS, weights)) == FOUR


def test_top_k_passes_other_axes_to_both_results() -> None:
    facts = facts_of("y, i = TopK <axis=3> (x, k)", IMAGE, ON_CHANNELS, {"k": integers(2)})
    assert outs(facts, 0) == outs(facts, 1) == {(1,): FOUR}
    assert fixed(facts_of("y, i = TopK <axis=1> (x, k)", IMAGE, ON_CHANNELS, {"k": integers(2)})) == FOUR


def test_heads_beside_an_axis_that_is_worked_along_may_go() -> None:
    facts = facts_of("y = Trilu (x)", {"x": (2, 3, 2, 2)}, {"x": {(1, 3): [[0, 1], [2, 3], [4, 5]]}})
    assert ties(facts) == [([[0, 2, 4]], [[1, 3, 5]])]
    assert fixed(facts) == []


def test_channels_that_tell_what_to_drop_stay() -> None:
    text = "c = Cast <to=9> (z) y = Compress <axis=2> (x, c)"
    assert fixed(facts_of(text, {**IMAGE, "z": (6,)}, {**ON_CHANNELS, "c": {(0,): [4, 5, 6, 7, 8, 9]}})) == [
        4,
        5,
        6,
        7,
        8,
        9,
    ]


def test_one_hot_puts_its_axis_before_or_behind_the_channels() -> None:
    known = {"d": np.int64(5), "v": np.array([0, 1], np.float32)}
    text = "a = Abs (x) y = OneHot <axis={}> (a, d, v)"
    assert outs(facts_of(text.format(-1), {"x": (2, 4)}, {"a": {(1,): FOUR}}, known)) == {(1,): FOUR}
    assert outs(facts_of(text.format(0), {"x": (2, 4)}, {"a": {(1,): FOUR}}, known)) == {(2,): FOUR}


def test_a_grid_does_not_need_the_number_of_channels() -> None:
    facts = facts_of("y = AffineGrid (x, k)", {"x": (2, 2, 3)}, {}, {"k": integers(2, 7, 4, 4)}, opset=20)
    assert [(f.index, f.element) for f in facts if isinstance(f, Settled)] == [(1, 1)]
    assert outs(facts) == {}


def test_a_deformable_convolution_sums_over_its_input_and_fixes_its_offsets() -> None:
    shapes = {**IMAGE, "o": (2, 4, 6, 6)}
    text = "y = DeformConv <kernel_shape=[1,1], offset_group=2> (x, w, o, b)"
    labelled = {**ON_CHANNELS, "o": {(1,): [4, 5, 6, 7]}}
    facts = facts_of(text, shapes, labelled, {"w": (3, 4, 1, 1), "b": (3,)}, opset=19)
    assert params(facts, 1) == {(0,): ([100, 101, 102], False), (1,): (FOUR, True)}
    assert params(facts, 3) == {(0,): ([100, 101, 102], False)}
    assert (fixed(facts), balanced(facts)) == ([4, 5, 6, 7], [[[0, 1], [2, 3]]])
    assert (linear(facts).refit, linear(facts).bias, linear(facts).macs) == (False, None, 2 * 36)


def test_a_fused_convolution_is_not_solved_for_and_ties_what_it_adds() -> None:
    text = 'y = com.microsoft.FusedConv <activation="Relu", kernel_shape=[1,1]> (x, w, b, z)'
    labelled = {**ON_CHANNELS, "z": {(1,): [4, 5, 6]}}
    facts = facts_of(text, {**IMAGE, "z": (2, 3, 6, 6)}, labelled, {"w": (3, 4, 1, 1), "b": (3,)})
    assert ties(facts) == [([100, 101, 102], [4, 5, 6])]
    assert not linear(facts).refit
