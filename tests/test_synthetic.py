from dataclasses import replace

import numpy as np
import pytest

from onnxprune.calibration.images import ImageOptions
from onnxprune.calibration.inputs import InputSpec
from onnxprune.calibration.leaves import Leaves, dead_leaves
from onnxprune.calibration.source import Source, open_calibration, open_source
from onnxprune.calibration.synthetic import SyntheticSource
from onnxprune.errors import BadInput

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)
IMAGE = InputSpec("x", F32, (None, 3, 16, 12))


def opened(*specs: InputSpec, samples: int | None = 12, batch_size: int = 5, seed: int = 0) -> Source:
    return open_source(None, specs, samples=samples, batch_size=batch_size, seed=seed, image=ImageOptions())


def values(source: Source, name: str) -> np.ndarray:
    return np.concatenate([feed[name] for feed in source.batches()])


def test_images_are_dead_leaves_of_zero_mean_and_unit_deviation_over_many():
    images = values(opened(IMAGE, samples=400), "x")
    assert images.shape == (400, 3, 16, 12)
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images[7], dead_leaves(Leaves(), np.random.default_rng((0, 7, 0)), (3, 16, 12)))
    assert abs(float(images.mean())) < 0.1
    assert abs(float(images.std()) - 1) < 0.1


def test_the_parameters_of_the_leaves_go_with_the_source():
    source = opened(IMAGE, samples=200)
    assert isinstance(source, SyntheticSource)
    faint = values(replace(source, leaves=Leaves(gain=0.25)), "x")
    assert abs(float(faint.std()) - 0.25) < 0.03


def test_images_too_small_for_shapes_are_noise():
    images = values(opened(InputSpec("x", F32, (None, 64, 4, 4)), samples=100), "x")
    assert abs(float(images.std()) - 1) < 0.02
    assert abs(float((images[..., 1:] * images[..., :-1]).mean())) < 0.02


def test_samples_do_not_depend_on_the_batch_size_or_the_pass():
    source = opened(IMAGE)
    first = values(source, "x")
    np.testing.assert_array_equal(first, values(source, "x"))
    np.testing.assert_array_equal(first, values(opened(IMAGE, batch_size=1), "x"))
    np.testing.assert_array_equal(first[:7], values(opened(IMAGE, samples=7, batch_size=64), "x"))
    assert not np.array_equal(first, values(opened(IMAGE, seed=1), "x"))
    assert len({image.tobytes() for image in first}) == 12


def test_the_source_says_that_no_real_data_was_seen():
    source = opened(IMAGE, samples=None)
    assert source.synthetic
    assert source.samples == 512
    assert source.description == "synthetic: 512 made-up samples, seed 0, no real data"


def test_the_last_batch_is_partial_where_the_batch_is_dynamic():
    assert [len(feed["x"]) for feed in opened(IMAGE).batches()] == [5, 5, 2]


def test_a_fixed_batch_drops_what_fills_none_and_says_so():
    source = opened(replace(IMAGE, shape=(8, 3, 16, 12)))
    assert [feed["x"].shape for feed in source.batches()] == [(8, 3, 16, 12)]
    assert source.samples == 8
    assert "4 samples dropped" in source.description
    with pytest.raises(BadInput, match="fixed at 8, 3 samples fill none"):
        opened(replace(IMAGE, shape=(8, 3, 16, 12)), samples=3)


def test_channels_last_images_are_the_same_pictures_turned():
    images = values(opened(replace(IMAGE, shape=(None, 16, 12, 3))), "x")
    np.testing.assert_array_equal(images, values(opened(IMAGE), "x").transpose(0, 2, 3, 1))
    assert images.flags.c_contiguous


def test_the_range_follows_the_preprocessing_inside_the_model():
    images = values(opened(replace(IMAGE, centre=127.5, spread=64.0)), "x")
    np.testing.assert_allclose(images, 127.5 + 64 * values(opened(IMAGE), "x"), rtol=1e-5)


def test_uint8_images_are_bytes_around_the_middle():
    images = values(opened(replace(IMAGE, dtype=np.dtype(np.uint8))), "x")
    assert images.dtype == np.uint8
    assert abs(float(images.mean()) - 127.5) < 15


def test_half_precision_inputs_get_half_precision():
    images = values(opened(replace(IMAGE, dtype=np.dtype(np.float16))), "x")
    assert images.dtype == np.float16
    assert np.isfinite(images).all()


def test_ids_are_valid_and_cover_the_vocabulary():
    ids = values(opened(InputSpec("input_ids", I64, (None, 50), vocabulary=7), samples=20), "input_ids")
    assert ids.dtype == np.int64
    assert sorted(set(ids.ravel().tolist())) == list(range(7))


def test_masks_types_positions_and_other_integers_have_their_own_values():
    specs = [
        InputSpec("attention_mask", I64, (None, 4)),
        InputSpec("pad_mask", np.dtype(bool), (None, 4)),
        InputSpec("token_type_ids", I64, (None, 4), vocabulary=2),
        InputSpec("position_ids", I64, (None, 4), vocabulary=9),
        InputSpec("count", np.dtype(np.int32), (None, 4)),
        InputSpec("train", np.dtype(bool), ()),
        InputSpec("scale", F32, ()),
    ]
    feed = next(opened(*specs, samples=3, batch_size=3).batches())
    np.testing.assert_array_equal(feed["attention_mask"], np.ones((3, 4)))
    assert feed["pad_mask"].dtype == np.bool_
    assert feed["pad_mask"].all()
    np.testing.assert_array_equal(feed["token_type_ids"], np.zeros((3, 4)))
    np.testing.assert_array_equal(feed["position_ids"], [[0, 1, 2, 3]] * 3)
    assert set(feed["count"].ravel().tolist()) <= {1, 2, 3}
    assert (feed["train"].shape, bool(feed["train"])) == ((), False)
    assert (feed["scale"].dtype, float(feed["scale"])) == (np.float32, 1.0)


def test_a_state_batched_on_its_second_axis_follows_the_batch():
    specs = [
        InputSpec("input", F32, (None, 512), ("batch", None)),
        InputSpec("state", F32, (2, None, 4), (None, "batch", None)),
    ]
    shapes = [(feed["input"].shape, feed["state"].shape) for feed in opened(*specs, samples=5, batch_size=3).batches()]
    assert shapes == [((3, 512), (2, 3, 4)), ((2, 512), (2, 2, 4))]


def test_vectors_and_sequences_are_standard_normal():
    vectors = values(opened(InputSpec("v", F32, (None, 40, 50)), samples=20), "v")
    assert abs(float(vectors.mean())) < 0.02
    assert abs(float(vectors.std()) - 1) < 0.02


def test_dynamic_sides_are_guessed_aloud():
    spec = InputSpec("x", F32, (None, 3, None, 16))
    opened_ = open_calibration("synthetic", [spec], {}, samples=2, batch_size=2, seed=0, image=ImageOptions())
    assert next(opened_.source.batches())["x"].shape == (2, 3, 224, 16)
    assert len(opened_.guesses) == 1


def test_complex_inputs_need_data():
    with pytest.raises(BadInput, match=r"complex64.*give --calib data"):
        next(opened(InputSpec("z", np.dtype(np.complex64), (None, 4))).batches())
