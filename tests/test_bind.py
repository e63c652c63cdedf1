from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import pytest

from onnxprune.calibration.bind import Shape, bind_given, bind_known, infer_layout, parse_input_shape
from onnxprune.calibration.inputs import InputSpec, batch_axes, fixed_batch, input_specs
from onnxprune.calibration.settle import settle
from onnxprune.errors import BadInput

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)
IMAGE = InputSpec("x", F32, (None, 3, None, None), ("batch", None, "h", "w"))
IDS = InputSpec("input_ids", I64, (None, None), ("batch", "seq"))
MASK = InputSpec("attention_mask", I64, (None, None), ("batch", "seq"))


def bind_shapes(
    specs: Sequence[InputSpec], given: Mapping[str, Shape], data: Mapping[str, Shape], batch_size: int
) -> tuple[list[InputSpec], list[str]]:
    return settle(bind_known(specs, given, data), batch_size)


def model(text: str) -> ir.Model:
    return ir.from_onnx_text(text)


def test_input_specs_lists_real_inputs_with_dtypes_shapes_and_symbols():
    specs = input_specs(
        model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,3,?,8] x, float[3] w, uint8[2] u) => (float[N] y) <float[3] w = {1, 2, 3}> { y = Identity(x) }""")
    )
    assert [(spec.name, spec.dtype, spec.shape) for spec in specs] == [
        ("x", F32, (None, 3, None, 8)),
        ("u", np.dtype(np.uint8), (2,)),
    ]
    assert specs[0].symbols[0] == "N"


def test_vocabulary_is_read_from_the_embedding_table_behind_a_cast():
    (spec,) = input_specs(
        model("""<ir_version: 8, opset_import: ["" : 17]>
        g (int32[N,4] ids) => (float[N,4,2] y) <float[5,2] table = {0,1,2,3,4,5,6,7,8,9}>
        { wide = Cast <to = 7> (ids)  y = Gather <axis = 0> (table, wide) }""")
    )
    assert spec.vocabulary == 5


def test_a_gather_from_a_vector_is_no_embedding():
    (spec,) = input_specs(
        model("""<ir_version: 8, opset_import: ["" : 17]>
        g (int64[2] i) => (float[2] y) <float[3] sizes = {1, 2, 3}> { y = Gather (sizes, i) }""")
    )
    assert spec.vocabulary is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("a = Sub(x, m)  y = Div(a, d)", (100.0, 50.0)),
        ("a = Div(x, k)  y = Identity(a)", (127.5, 64.0)),
        ("a = BatchNormalization(x, g, b, m, v)  y = Relu(a)", (100.0, 30.0)),
        ("y = Relu(x)", (0.0, 1.0)),
    ],
)
def test_preprocessing_inside_the_model_sets_the_range_of_its_input(body: str, expected: tuple[float, float]):
    (spec,) = input_specs(
        model(f"""<ir_version: 8, opset_import: ["" : 17]>
        top (float[N,1,8,8] x) => (float[N,1,8,8] y)
        <float[1] m = {{100}}, float[1] d = {{50}}, float[1] k = {{255}},
         float[1] g = {{1}}, float[1] b = {{0}}, float[1] v = {{900}}> {{ {body} }}""")
    )
    assert (spec.centre, spec.spread) == pytest.approx(expected)


def test_string_inputs_are_refused():
    with pytest.raises(BadInput, match="'s' holds strings"):
        input_specs(
            model("""<ir_version: 8, opset_import: ["" : 17]>
            g (string[N] s) => (string[N] y) { y = Identity(s) }""")
        )


@pytest.mark.parametrize("text", ["x", "=1,2", "x=1,two", "x=1,0", "x=1,-3", "x=1,,3"])
def test_a_malformed_input_shape_is_refused(text: str):
    with pytest.raises(BadInput, match="NAME=SIZE"):
        parse_input_shape(text)


def test_an_input_name_may_hold_an_equals_sign_or_a_colon():
    assert parse_input_shape("a=b:0=1,3") == ("a=b:0", (1, 3))


def test_a_scalar_has_an_empty_shape():
    assert parse_input_shape("rate=") == ("rate", ())


def test_given_shapes_bind_every_dimension():
    (bound,), said = bind_shapes([IMAGE], {"x": (4, 3, 64, 48)}, {}, 4)
    assert bound.shape == (4, 3, 64, 48)
    assert said == []


def test_a_symbol_bound_in_one_input_is_bound_in_all():
    bound = bind_given([IDS, MASK], {"input_ids": (2, 16)})
    assert [spec.shape for spec in bound] == [(2, 16), (2, 16)]


def test_a_batch_bound_in_one_input_is_bound_in_all_even_without_symbols():
    other = InputSpec("m", F32, (None, 7))
    assert [spec.shape for spec in bind_given([other, IDS], {"input_ids": (2, 16)})] == [(2, 7), (2, 16)]


def test_data_bind_what_the_user_left_open_and_the_batch_stays_open():
    (bound,), said = bind_shapes([IMAGE], {}, {"x": (100, 3, 40, 56)}, 32)
    assert bound.shape == (None, 3, 40, 56)
    assert said == []


def test_guesses_are_stated_one_sentence_each():
    (bound,), said = bind_shapes([IMAGE], {}, {}, 32)
    assert bound.shape == (None, 3, 224, 224)
    assert len(said) == 2
    assert "Axis 2 (height) of input 'x'" in said[0]
    assert "224 is a guess; --input-shape x=1,3,224,224" in said[0]


def test_sequences_and_channels_last_images_have_guesses_of_their_own():
    last = InputSpec("p", F32, (None, None, None, 3))
    bound, said = bind_shapes([IDS, MASK, last], {}, {}, 8)
    assert [spec.shape for spec in bound] == [(None, 64), (None, 64), (None, 224, 224, 3)]
    assert len(said) == 4


def test_a_fixed_batch_is_stated_where_it_overrules_the_batch_size():
    fixed = InputSpec("x", F32, (1, 3, 8, 8))
    assert "batches of 1 instead of 32" in bind_shapes([fixed], {}, {}, 32)[1][0]
    assert bind_shapes([fixed], {}, {}, 1)[1] == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"z": (1, 3)}, "names 'z'; the model's inputs are 'x'"),
        ({"x": (1, 3, 8)}, r"rank 3, the model's input is \(\?, 3, \?, \?\)"),
        ({"x": (1, 4, 8, 8)}, "axis 1 is 3 in the model"),
    ],
)
def test_given_shapes_that_contradict_the_model_are_refused(given: dict[str, tuple[int, ...]], message: str):
    with pytest.raises(BadInput, match=message):
        bind_shapes([IMAGE], given, {}, 1)


def test_data_that_contradict_the_user_are_refused():
    with pytest.raises(BadInput, match="axis 2 is 32, it must be 64"):
        bind_shapes([IMAGE], {"x": (1, 3, 64, 64)}, {"x": (9, 3, 32, 32)}, 1)


def test_data_with_channels_on_the_wrong_axis_get_the_transpose_that_fits():
    with pytest.raises(BadInput, match=r"array.transpose\(0, 3, 1, 2\) would fit"):
        bind_shapes([IMAGE], {}, {"x": (9, 32, 32, 3)}, 1)


def test_data_without_a_batch_axis_are_told_to_add_one():
    with pytest.raises(BadInput, match=r"rank 3.*array\[None\]"):
        bind_shapes([IMAGE], {}, {"x": (3, 32, 32)}, 1)


def test_the_batch_axis_is_the_one_named_so_else_a_dynamic_axis_zero():
    state = InputSpec("state", F32, (2, None, 128), (None, "batch_size", None))
    rate = InputSpec("sr", I64, ())
    table = InputSpec("anchors", F32, (100, 4))
    assert batch_axes([IDS, state, rate, table]) == {"input_ids": 0, "state": 1, "sr": None, "anchors": None}
    assert fixed_batch([IDS, state]) is None


def test_a_static_batch_is_axis_zero_of_the_first_input():
    specs = [InputSpec("x", F32, (4, 3)), InputSpec("h", F32, (2, 4, 3)), InputSpec("k", F32, (4,))]
    assert batch_axes(specs) == {"x": 0, "h": None, "k": 0}
    assert fixed_batch(specs) == 4


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((1, 3, 8, 8), "nchw"),
        ((1, 8, 8, 1), "nhwc"),
        ((None, None, None, None), "nchw"),
        ((1, 3, 8, 3), "nchw"),
        ((1, 4, 4, 3), "nhwc"),
    ],
)
def test_layout_is_told_by_where_the_colours_are(shape: tuple[int | None, ...], layout: str):
    assert infer_layout(shape) == layout
