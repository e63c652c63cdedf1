from dataclasses import replace

import numpy as np
import pytest

from onnxprune.calibration.images import ImageOptions
from onnxprune.calibration.inputs import InputSpec
from onnxprune.calibration.source import Source, open_calibration, open_source
from onnxprune.calibration.synthetic import GENERATORS, blobs, pink, white
from onnxprune.errors import BadInput

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)
IMAGE = InputSpec("x", F32, (None, 3, 16, 12))


def opened(*specs: InputSpec, samples: int | None = 12, batch_size: int = 5, seed: int = 0) -> Source:
    return open_source(None, specs, samples=samples, batch_size=batch_size, seed=seed, image=ImageOptions())


def values(source: Source, name: str) -> np.ndarray:
    return np.concatenate([feed[name] for feed in source.batches()])


def test_images_have_zero_mean_and_unit_deviation_per_channel():
    images = values(opened(IMAGE), "x")
    assert images.shape == (12, 3, 16, 12)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images.mean((2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(images.std((2, 3)), 1, atol=1e-4)


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


def test_channels_last_images_are_standardised_over_their_sides():
    images = values(opened(replace(IMAGE, shape=(None, 16, 12, 3))), "x")
    np.testing.assert_allclose(images.std((1, 2)), 1, atol=1e-4)
    assert images.flags.c_contiguous


def test_the_range_follows_the_preprocessing_inside_the_model():
    images = values(opened(replace(IMAGE, centre=127.5, spread=64.0)), "x")
    np.testing.assert_allclose(images.mean((2, 3)), 127.5, atol=1e-3)
    np.testing.assert_allclose(images.std((2, 3)), 64, rtol=1e-4)


def test_uint8_images_are_bytes_around_the_middle():
    images = values(opened(replace(IMAGE, dtype=np.dtype(np.uint8))), "x")
    assert images.dtype == np.uint8
    assert abs(float(images.mean()) - 127.5) < 3


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


@pytest.mark.parametrize("generator", list(GENERATORS))
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 9, 8), (64, 8, 11)])
def test_every_generator_fills_any_planes_with_finite_values(generator: type, shape: tuple[int, int, int]):
    field = generator(np.random.default_rng(0), shape)
    assert field.shape == shape
    assert field.dtype == np.float32
    assert np.isfinite(field).all()
    assert (field.std((1, 2)) > 0).all()


def test_white_noise_is_white_and_pink_noise_falls_with_frequency():
    def low_to_high(field: np.ndarray) -> float:
        power = (np.abs(np.fft.fft2(field)) ** 2).mean(0)
        return float(power[1:5, 1:5].mean() / power[12:17, 12:17].mean())

    rng = np.random.default_rng(0)
    assert 0.5 < low_to_high(white(rng, (200, 32, 32))) < 2
    # 1/f amplitude: power falls with the square of the frequency, here about (14.5 / 2.9)² = 25.
    assert 10 < low_to_high(pink(rng, (200, 32, 32))) < 60


def test_blobs_are_smooth_and_their_channels_related():
    rng = np.random.default_rng(0)
    fields = np.stack([blobs(rng, (3, 32, 32)) for _ in range(30)])
    steps = np.abs(np.diff(fields, axis=-1)).mean() / fields.std()
    correlations = [abs(np.corrcoef(field.reshape(3, -1))[0, 1]) for field in fields]
    assert steps < 0.3
    assert np.median(correlations) > 0.5
