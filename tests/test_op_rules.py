"""What each operator's rule says, with values; two sets of labels on one tensor are atoms 0… on axis 1 unless said."""

import numpy as np
import pytest
from graph_text import integers
from op_case import balanced, facts_of, fixed, indices, linear, outs, params, sizes, ties

from onnxprune.op_rules import RULES
from onnxprune.op_rules.elementwise import BROADCAST, UNARY
from onnxprune.op_rules.facts import Fact, Product

IMAGE = {"x": (2, 4, 5, 5)}
FOUR = [0, 1, 2, 3]
ON_CHANNELS = {"x": {(1,): FOUR}}


def image(node: str, weights: dict | None = None, opset: int = 17, atoms: list[int] = FOUR) -> list[Fact]:
    return facts_of(node, IMAGE, {"x": {(1,): atoms}}, weights, opset)


@pytest.mark.parametrize("op", ["Relu", "Sigmoid", "Identity", "Clip", "Erf", "HardSwish", "Softplus"])
def test_a_unary_operator_passes_its_labels(op: str) -> None:
    facts = image(f"y = {op} (x)")
    assert outs(facts) == {(1,): FOUR}
    assert fixed(facts) == []


def test_cast_and_both_outputs_of_dropout_pass_labels() -> None:
    assert outs(image("y = Cast <to=10> (x)")) == {(1,): FOUR}
    facts = image("y, mask = Dropout (x)")
    assert outs(facts, 0) == outs(facts, 1) == {(1,): FOUR}


def test_adding_two_labelled_tensors_ties_them() -> None:
    facts = facts_of("y = Add (x, z)", {**IMAGE, "z": (2, 4, 1, 1)}, {**ON_CHANNELS, "z": {(1,): [7, 8, 9, 6]}})
    assert ties(facts) == [(FOUR, [7, 8, 9, 6])]
    assert outs(facts) == {(1,): FOUR}


def test_adding_an_unlabelled_tensor_fixes_the_channels() -> None:
    assert fixed(facts_of("y = Add (x, z)", {**IMAGE, "z": (2, 4, 5, 5)}, ON_CHANNELS)) == FOUR
    assert fixed(facts_of("y = Add (x, z)", {**IMAGE, "z": (2, 1, 5, 5)}, ON_CHANNELS)) == []


@pytest.mark.parametrize(("shape", "axis"), [((1, 4, 1, 1), 1), ((4, 1, 1), 0), ((2, 4, 5, 5), 1)])
def test_a_constant_operand_is_sliced_where_the_labels_lie(shape: tuple[int, ...], axis: int) -> None:
    facts = image("y = Mul (x, k)", {"k": shape})
    assert params(facts, 1) == {(axis,): (FOUR, False)}
    assert fixed(facts) == []


def test_a_scalar_or_spatial_constant_is_not_sliced() -> None:
    assert params(image("y = Mul (k, x)", {"k": (1,)}), 0) == {}
    assert params(image("y = Mul (k, x)", {"k": (5, 1)}), 0) == {}


def test_a_single_channel_that_is_broadcast_must_stay() -> None:
    facts = facts_of("y = Mul (x, z)", {**IMAGE, "z": (2, 1, 5, 5)}, {**ON_CHANNELS, "z": {(1,): [9]}})
    assert fixed(facts) == [9]
    assert outs(facts) == {(1,): FOUR}


def test_labels_of_different_axes_both_pass_an_outer_product() -> None:
    facts = facts_of("y = Mul (x, z)", {"x": (4, 1), "z": (1, 2)}, {"x": {(0,): FOUR}, "z": {(1,): [5, 6]}})
    assert outs(facts) == {(0,): FOUR, (1,): [5, 6]}


def test_prelu_and_where_take_part_in_broadcasting() -> None:
    assert params(image("y = PRelu (x, s)", {"s": (4, 1, 1)}), 1) == {(0,): (FOUR, False)}
    facts = image("c = Cast <to=9> (x) y = Where (c, x, k)", {"k": (1, 4, 1, 1)})
    assert params(facts, 2) == {(1,): (FOUR, False)}


def test_batch_normalisation_slices_its_vectors() -> None:
    facts = image("y = BatchNormalization (x, a, b, c, d)", dict.fromkeys("abcd", (4,)))
    assert outs(facts) == {(1,): FOUR}
    assert all(params(facts, index) == {(0,): (FOUR, False)} for index in (1, 2, 3, 4))


def test_concat_puts_atoms_one_behind_the_other_and_what_is_unlabelled_stays() -> None:
    shapes = {"x": (2, 2, 3), "z": (2, 1, 3), "w": (2, 3, 3)}
    facts = facts_of("y = Concat <axis=-2> (x, z, w)", shapes, {"x": {(1,): [4, 5]}, "w": {(1,): [0, 1, 2]}})
    assert outs(facts) == {(1,): [4, 5, -1, 0, 1, 2]}


def test_concat_along_another_axis_ties_the_channels() -> None:
    shapes = {"x": (2, 2, 3), "z": (2, 2, 4)}
    facts = facts_of("y = Concat <axis=2> (x, z)", shapes, {"x": {(1,): [4, 5]}, "z": {(1,): [0, 1]}})
    assert ties(facts)[-1] == ([0, 1], [4, 5])
    assert outs(facts) == {(1,): [4, 5]}
    assert fixed(facts_of("y = Concat <axis=2> (x, z)", shapes, {"x": {(1,): [4, 5]}})) == [4, 5]


def test_split_cuts_the_atoms_and_its_sizes_follow() -> None:
    facts = image("y, z = Split <axis=1> (x, parts)", {"parts": integers(1, 3)})
    assert (outs(facts, 0), outs(facts, 1)) == ({(1,): [0]}, {(1,): [1, 2, 3]})
    assert sizes(facts) == [(1, 0, [0], None), (1, 1, [1, 2, 3], None)]
    assert sizes(image("y, z = Split <axis=1, split=[2,2]> (x)", opset=9)) == [
        ("split", 0, [0, 1], None),
        ("split", 1, [2, 3], None),
    ]


def test_a_split_without_sizes_is_given_some() -> None:
    assert sizes(image("y, z = Split <axis=1> (x)", opset=13)) == [(1, 0, [0, 1], None), (1, 1, [2, 3], None)]


def slice_of(start: int, end: int, step: int = 1) -> list[Fact]:
    bounds = {"s": integers(start), "e": integers(end), "a": integers(1), "t": integers(step)}
    return image("y = Slice (x, s, e, a, t)", bounds)


def test_slice_bounds_count_what_stays_before_them() -> None:
    facts = slice_of(1, 3)
    assert outs(facts) == {(1,): [1, 2]}
    assert sizes(facts) == [(1, 0, FOUR, 1), (2, 0, FOUR, 3)]


def test_negative_slice_bounds_become_positive_ones() -> None:
    facts = slice_of(-3, -1)
    assert outs(facts) == {(1,): [1, 2]}
    assert sizes(facts) == [(1, 0, FOUR, 1), (2, 0, FOUR, 3)]


def test_slice_bounds_at_an_end_or_beyond_are_left_alone() -> None:
    assert sizes(slice_of(0, 2**40)) == []
    assert sizes(slice_of(-4, 4)) == []


def test_slices_with_a_step_and_of_old_opsets() -> None:
    assert fixed(slice_of(0, 4, 2)) == FOUR
    facts = image("y = Slice <axes=[1], starts=[2], ends=[-1]> (x)", opset=9)
    assert outs(facts) == {(1,): [2]}
    assert sizes(facts) == [("starts", 0, FOUR, 2), ("ends", 0, FOUR, 3)]


def test_padding_channels_adds_positions_that_stay() -> None:
    facts = image("y = Pad (x, p)", {"p": integers(0, 1, 0, 0, 0, 2, 1, 0)})
    assert outs(facts) == {(1,): [-1, 0, 1, 2, 3, -1, -1]}
    assert fixed(image('y = Pad <mode="reflect"> (x, p)', {"p": integers(0, 1, 0, 0, 0, 0, 0, 0)})) == FOUR
    assert outs(image("y = Pad (x, p)", {"p": integers(0, 0, 1, 1, 0, 0, 1, 1)})) == {(1,): FOUR}


def test_resize_passes_channels_and_rewrites_a_channel_size() -> None:
    by_scale = image("y = Resize (x, , k)", {"k": np.array([1, 1, 2, 2], np.float32)})
    assert (outs(by_scale), sizes(by_scale)) == ({(1,): FOUR}, [])
    assert sizes(image("y = Resize (x, , , k)", {"k": integers(2, 4, 9, 9)})) == [(3, 1, FOUR, None)]
    assert fixed(image("y = Resize (x, , k)", {"k": np.array([1, 2, 1, 1], np.float32)})) == FOUR


def test_transpose_moves_labels() -> None:
    assert outs(image("y = Transpose <perm=[0,2,3,1]> (x)")) == {(3,): FOUR}
    assert outs(image("y = Transpose (x)")) == {(2,): FOUR}


def test_flatten_repeats_each_channel_over_its_positions() -> None:
    flat = [atom for atom in FOUR for _ in range(25)]
    assert outs(image("y = Flatten (x)")) == {(1,): flat}


def test_squeeze_and_unsqueeze_rename_axes() -> None:
    assert outs(image("y = Unsqueeze (x, k)", {"k": integers(0)})) == {(2,): FOUR}
    facts = facts_of("y = Squeeze (x, k)", {"x": (2, 1, 4)}, {"x": {(2,): FOUR}}, {"k": integers(1)})
    assert outs(facts) == {(1,): FOUR}


def test_reshape_splits_a_channel_axis_and_rewrites_the_sizes_that_hold_channels() -> None:
    facts = image("y = Reshape (x, k)", {"k": integers(0, 2, 2, -1)})
    assert outs(facts) == {(1, 2): [[0, 1], [2, 3]]}
    assert [(place, element) for place, element, _, _ in sizes(facts)] == [(1, 1), (1, 2)]
    assert sizes(image("y = Reshape (x, k)", {"k": integers(2, -1, 5, 5)})) == []


def test_reshape_that_merges_two_labelled_axes_passes_the_longer_and_fixes_the_other() -> None:
    facts = facts_of("y = Reshape (x, k)", {"x": (2, 3)}, {"x": {(0,): [7, 8], (1,): [0, 1, 2]}}, {"k": integers(6)})
    assert fixed(facts) == [7, 8]
    assert outs(facts) == {(0,): [0, 1, 2, 0, 1, 2]}


def test_expand_passes_what_it_does_not_repeat() -> None:
    facts = facts_of("y = Expand (x, k)", {"x": (4, 1)}, {"x": {(0,): FOUR}}, {"k": integers(3, 4, 2)})
    assert outs(facts) == {(1,): FOUR}
    assert sizes(facts) == [(1, 1, FOUR, None)]
    assert fixed(facts_of("y = Expand (x, k)", {"x": (1, 4)}, {"x": {(0,): [9]}}, {"k": integers(3, 4)})) == [9]


def test_tile_repeats_atoms() -> None:
    facts = facts_of("y = Tile (x, k)", {"x": (2, 2)}, {"x": {(1,): [5, 6]}}, {"k": integers(1, 2)})
    assert outs(facts) == {(1,): [5, 6, 5, 6]}


def test_gather_picks_atoms_and_its_indices_are_numbered_anew() -> None:
    facts = image("y = Gather <axis=1> (x, k)", {"k": integers(3, -3, 3)})
    assert outs(facts) == {(1,): [3, 1, 3]}
    assert indices(facts) == [FOUR]
    assert fixed(facts) == []


def test_gathering_one_channel_fixes_that_one_and_gathering_a_position_moves_the_axes() -> None:
    one = image("y = Gather <axis=1> (x, k)", {"k": np.int64(2)})
    assert (outs(one), fixed(one)) == ({}, [2])
    assert outs(image("y = Gather <axis=0> (x, k)", {"k": np.int64(1)})) == {(0,): FOUR}
    assert outs(image("y = Gather <axis=3> (x, k)", {"k": integers(1)})) == {(1,): FOUR}


def test_sizes_carry_no_labels_and_counting_elements_fixes() -> None:
    assert (outs(image("y = Shape (x)")), fixed(image("y = Shape (x)"))) == ({}, [])
    assert fixed(image("y = Size (x)")) == FOUR
    assert fixed(image("y = NonZero (x)")) == FOUR


@pytest.mark.parametrize("op", ["MaxPool <kernel_shape=[2,2]>", "AveragePool <kernel_shape=[3,3]>", "GlobalMaxPool"])
def test_pooling_passes_channels_and_fixes_other_axes(op: str) -> None:
    assert outs(image(f"y = {op} (x)")) == {(1,): FOUR}
    assert fixed(facts_of(f"y = {op} (x)", IMAGE, {"x": {(3,): [0, 1, 2, 3, 4]}})) == [0, 1, 2, 3, 4]


def test_a_reduction_over_other_axes_passes_channels_and_over_theirs_fixes_them() -> None:
    assert outs(image("y = ReduceMean <axes=[2,3], keepdims=1> (x)")) == {(1,): FOUR}
    assert outs(image("y = ReduceSum <keepdims=0> (x, k)", {"k": integers(0, -1)})) == {(0,): FOUR}
    assert fixed(image("y = ReduceMax <axes=[1]> (x)")) == FOUR
    assert fixed(image("y = ReduceMean (x)")) == FOUR
    assert fixed(image("y = ArgMax <axis=1> (x)")) == FOUR


def test_softmax_fixes_its_axis_and_before_opset_13_all_from_there_on() -> None:
    assert fixed(image("y = Softmax <axis=1> (x)")) == FOUR
    assert outs(image("y = Softmax <axis=2> (x)")) == {(1,): FOUR}
    assert fixed(image("y = Softmax <axis=1> (x)", opset=11)) == FOUR
    assert outs(image("y = Softmax <axis=2> (x)", opset=11)) == {(1,): FOUR}


def test_normalisations_fix_the_axes_they_average_over() -> None:
    wide = {"g": (5,), "b": (5,)}
    assert outs(image("y = LayerNormalization <axis=-1> (x, g, b)", wide)) == {(1,): FOUR}
    assert fixed(image("y = LayerNormalization <axis=1> (x, g)", {"g": (4, 5, 5)})) == FOUR
    assert fixed(image("y = LpNormalization <axis=1> (x)")) == FOUR
    instance = image("y = InstanceNormalization (x, g, b)", {"g": (4,), "b": (4,)})
    assert (outs(instance), params(instance, 1)) == ({(1,): FOUR}, {(0,): (FOUR, False)})


def test_a_convolution_sums_over_its_input_channels_and_makes_new_ones() -> None:
    facts = image("y = Conv (x, w, b)", {"w": (3, 4, 3, 3), "b": (3,)})
    assert outs(facts) == {(1,): [100, 101, 102]}
    assert params(facts, 1) == {(0,): ([100, 101, 102], False), (1,): (FOUR, True)}
    assert params(facts, 2) == {(0,): ([100, 101, 102], False)}
    layer = linear(facts)
    assert (layer.kind, layer.groups, layer.refit, layer.macs) == ("conv", 1, True, 2 * 3 * 3)
    assert layer.features.tolist() == [[atom for atom in FOUR for _ in range(9)]]
    assert layer.outputs.tolist() == [[100, 101, 102]]


def test_a_grouped_convolution_balances_what_it_reads_and_writes() -> None:
    facts = image("y = Conv <group=2> (x, w)", {"w": (4, 2, 1, 1)})
    assert balanced(facts) == [[[0, 1], [2, 3]], [[100, 101], [102, 103]]]
    assert params(facts, 1)[0, 1] == ([[0, 1], [0, 1], [2, 3], [2, 3]], True)
    assert linear(facts).features.tolist() == [[0, 1], [2, 3]]


def test_a_depthwise_convolution_carries_its_channels_through() -> None:
    facts = image("y = Conv <group=4> (x, w, b)", {"w": (8, 1, 3, 3), "b": (8,)})
    assert outs(facts) == {(1,): [0, 0, 1, 1, 2, 2, 3, 3]}
    assert sizes(facts) == [("group", None, FOUR, None)]
    assert params(facts, 1) == {(0,): ([0, 0, 1, 1, 2, 2, 3, 3], False)}
    assert not linear(facts).refit


def test_a_transposed_convolution_has_its_input_channels_first() -> None:
    facts = image("y = ConvTranspose <strides=[2,2]> (x, w, b)", {"w": (4, 3, 2, 2), "b": (3,)})
    assert outs(facts) == {(1,): [100, 101, 102]}
    assert params(facts, 1) == {(0,): (FOUR, True), (1,): ([100, 101, 102], False)}
    assert linear(facts).macs == 2 * 5 * 5
    grouped = image("y = ConvTranspose <group=2> (x, w)", {"w": (4, 3, 2, 2)})
    assert params(grouped, 1)[0, 1][0] == [[100, 101, 102]] * 2 + [[103, 104, 105]] * 2
    assert params(grouped, 1)[0,] == (FOUR, True)


def test_a_convolution_fixes_labels_on_the_axes_it_slides_over_and_what_meets_a_computed_weight() -> None:
    sliding = facts_of("y = Conv (x, w)", IMAGE, {"x": {(2,): [0, 1, 2, 3, 4]}}, {"w": (3, 4, 3, 3)})
    assert fixed(sliding) == [0, 1, 2, 3, 4]
    assert fixed(facts_of("y = Conv (x, z)", {**IMAGE, "z": (3, 4, 1, 1)}, ON_CHANNELS)) == FOUR


@pytest.mark.parametrize(("attributes", "reads", "shape"), [("", 0, (4, 3)), ("<transB=1>", 1, (3, 4))])
def test_gemm_reads_and_writes_the_axes_that_trans_b_tells(attributes: str, reads: int, shape: tuple[int, ...]) -> None:
    weights = {"w": shape, "b": (1, 3)}
    facts = facts_of(f"y = Gemm {attributes} (x, w, b)", {"x": (2, 4)}, {"x": {(1,): FOUR}}, weights)
    assert params(facts, 1) == {(reads,): (FOUR, True), (1 - reads,): ([100, 101, 102], False)}
    assert params(facts, 2) == {(1,): ([100, 101, 102], False)}
    assert linear(facts).refit


def test_a_gemm_with_alpha_or_a_transposed_input_is_not_refitted() -> None:
    scaled = facts_of("y = Gemm <alpha=0.5> (x, w)", {"x": (2, 4)}, {"x": {(1,): FOUR}}, {"w": (4, 3)})
    assert not linear(scaled).refit
    turned = facts_of("y = Gemm <transA=1> (x, w)", {"x": (4, 2)}, {"x": {(0,): FOUR}}, {"w": (4, 3)})
    assert params(turned, 1)[0,] == (FOUR, True)
    assert not linear(turned).refit


def test_matmul_by_a_weight_makes_new_columns_or_new_rows() -> None:
    right = facts_of("y = MatMul (x, w)", {"x": (2, 5, 4)}, {"x": {(2,): FOUR}}, {"w": (4, 3)})
    assert outs(right) == {(2,): [100, 101, 102]}
    assert params(right, 1) == {(0,): (FOUR, True), (1,): ([100, 101, 102], False)}
    left = facts_of("y = MatMul (w, x)", {"x": (2, 4, 5)}, {"x": {(1,): FOUR}}, {"w": (3, 4)})
    assert outs(left) == {(1,): [100, 101, 102]}
    assert params(left, 0) == {(1,): (FOUR, True), (0,): ([100, 101, 102], False)}
    assert not linear(left).refit


def test_matmul_of_two_activations_ties_what_is_summed_and_passes_rows_and_columns() -> None:
    labelled = {"x": {(1,): [10, 11], (2,): FOUR}, "z": {(1,): [4, 5, 6, 7], (2,): [20, 21, 22]}}
    facts = facts_of("y = MatMul (x, z)", {"x": (2, 2, 4), "z": (2, 4, 3)}, labelled)
    assert ties(facts) == [(FOUR, [4, 5, 6, 7])]
    assert outs(facts) == {(1,): [10, 11], (2,): [20, 21, 22]}
    assert [f.macs for f in facts if isinstance(f, Product)] == [2 * 2 * 3 * 4]


def test_every_operator_of_the_issue_has_a_rule() -> None:
    named = "Conv ConvTranspose Gemm MatMul BatchNormalization PRelu Clip MaxPool AveragePool GlobalAveragePool "
    named += "ReduceMean ReduceSum Flatten Reshape Transpose Squeeze Unsqueeze Concat Split Slice Pad Resize Identity "
    named += "Cast Dropout Softmax"
    assert {("", op) for op in (*named.split(), *UNARY, *BROADCAST)} <= RULES.keys()
