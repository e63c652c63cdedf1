from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxprune.calibration.arrays import choose_rows
from onnxprune.calibration.images import MAX_PIXELS, ImageOptions, list_images
from onnxprune.calibration.inputs import InputSpec
from onnxprune.calibration.source import Source, open_calibration, open_source
from onnxprune.errors import BadInput

NCHW = InputSpec("x", np.dtype(np.float32), (None, 3, 2, 2))


def save(path: Path, pixels: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def opened(folder: Path, spec: InputSpec = NCHW, samples: int | None = None, **options: object) -> Source:
    image = ImageOptions(**options)  # type: ignore[arg-type]
    return open_source(folder, [spec], samples=samples, batch_size=2, seed=0, image=image)


def only(source: Source) -> np.ndarray:
    return next(source.batches())["x"]


@pytest.fixture
def orange(tmp_path: Path) -> Path:
    save(tmp_path / "a.png", np.full((2, 2, 3), (255, 102, 0)))
    return tmp_path


def test_mean_and_std_are_applied_per_channel_after_division_by_255(orange: Path):
    feed = only(opened(orange, mean=(0.5, 0.4, 0.1), std=(0.5, 0.2, 0.1)))
    assert feed.shape == (1, 3, 2, 2)
    assert feed.dtype == np.float32
    np.testing.assert_allclose(feed[0, :, 0, 0], [1.0, 0.0, -1.0], atol=1e-6)


def test_without_mean_and_std_pixels_are_scaled_to_one_and_the_description_says_so(orange: Path):
    source = opened(orange)
    np.testing.assert_allclose(only(source)[0, :, 1, 1], [1.0, 0.4, 0.0], atol=1e-6)
    assert "scaled to 0..1" in source.description
    assert not source.synthetic


def test_bgr_turns_the_channels_before_mean_and_std(orange: Path):
    feed = only(opened(orange, channel_order="bgr", mean=(0.1, 0.4, 0.5), std=(0.1, 0.2, 0.5)))
    np.testing.assert_allclose(feed[0, :, 0, 0], [-1.0, 0.0, 1.0], atol=1e-6)


def test_channels_last_models_get_channels_last(orange: Path):
    spec = InputSpec("x", np.dtype(np.float32), (None, 2, 2, 3))
    feed = only(opened(orange, spec, mean=(1.0, 0.4, 0.0), std=(1.0,)))
    assert feed.shape == (1, 2, 2, 3)
    np.testing.assert_allclose(feed, 0.0, atol=1e-6)


def test_an_explicit_layout_wins_over_the_shape(tmp_path: Path):
    save(tmp_path / "a.png", np.full((4, 3, 3), 51))
    spec = InputSpec("x", np.dtype(np.float32), (None, 3, 5, 3))
    assert only(opened(tmp_path, spec, layout="nhwc")).shape == (1, 3, 5, 3)
    assert only(opened(tmp_path, spec, layout="nchw")).shape == (1, 3, 5, 3)


def test_uint8_inputs_get_raw_pixels(orange: Path):
    feed = only(opened(orange, InputSpec("x", np.dtype(np.uint8), (None, 3, 2, 2))))
    assert feed.dtype == np.uint8
    assert feed[0, :, 0, 0].tolist() == [255, 102, 0]


def test_gray_inputs_get_luma(tmp_path: Path):
    save(tmp_path / "a.png", np.full((2, 2, 3), 51))
    feed = only(opened(tmp_path, InputSpec("x", np.dtype(np.float32), (None, 1, 2, 2))))
    np.testing.assert_allclose(feed, np.full((1, 1, 2, 2), 0.2), atol=1e-6)


def test_shrinking_averages_instead_of_skipping_pixels(tmp_path: Path):
    checks = np.indices((64, 64)).sum(0) % 2 * 255
    save(tmp_path / "a.png", checks)
    feed = only(opened(tmp_path))
    np.testing.assert_allclose(feed, 0.5, atol=0.02)


def test_the_folder_is_read_recursively_and_drawn_from_in_the_order_of_names(tmp_path: Path):
    for name, value in [("b/z.png", 51), ("a.png", 0), ("b/c.PNG", 255)]:
        save(tmp_path / name, np.full((2, 2, 3), value))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._a.png").write_text("no image either")
    assert [path.name for path in list_images(tmp_path)] == ["a.png", "c.PNG", "z.png"]
    source = opened(tmp_path)
    sweeps = [[feed["x"] for feed in source.batches()] for _ in range(2)]
    assert [len(batch) for batch in sweeps[0]] == [2, 1]
    drawn = np.array([0.0, 1.0, 0.2])[choose_rows(3, None, 0)]
    assert [float(image.mean()) for batch in sweeps[0] for image in batch] == pytest.approx(drawn.tolist())
    for first, second in zip(*sweeps, strict=True):
        np.testing.assert_array_equal(first, second)


def test_samples_are_drawn_with_the_seed(tmp_path: Path):
    for value in range(10):
        save(tmp_path / f"{value}.png", np.full((2, 2, 3), value))
    source = opened(tmp_path, InputSpec("x", np.dtype(np.uint8), (None, 3, 2, 2)), samples=4)
    values = [int(image[0, 0, 0]) for feed in source.batches() for image in feed["x"]]
    expected = np.random.default_rng(0).choice(10, 4, replace=False).tolist()
    assert source.samples == 4
    assert values == expected


def test_image_size_binds_dynamic_sides_and_a_missing_one_is_a_stated_guess(orange: Path):
    spec = InputSpec("x", np.dtype(np.float32), (None, 3, None, None))
    sized = ImageOptions(image_size=(6, 4))
    bound = open_calibration(orange, [spec], {}, samples=None, batch_size=2, seed=0, image=sized)
    assert only(bound.source).shape == (1, 3, 6, 4)
    assert bound.guesses == []
    guessed = open_calibration(orange, [spec], {}, samples=None, batch_size=2, seed=0, image=ImageOptions())
    assert only(guessed.source).shape == (1, 3, 224, 224)
    assert len(guessed.guesses) == 2


def test_image_size_against_a_static_model_is_refused(orange: Path):
    with pytest.raises(BadInput, match="axis 2 is 6, it must be 2"):
        opened(orange, image_size=(6, 6))


def test_a_corrupt_image_is_named(orange: Path):
    whole = (orange / "a.png").read_bytes()
    (orange / "b.png").write_bytes(whole[:40])
    with pytest.raises(BadInput, match=r"b\.png cannot be decoded"):
        list(opened(orange).batches())


def test_a_truncated_photograph_is_named(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    save(tmp_path / "photo.jpg", noise)
    whole = (tmp_path / "photo.jpg").read_bytes()
    (tmp_path / "photo.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=r"photo\.jpg cannot be decoded"):
        only(opened(tmp_path))


@pytest.mark.parametrize("side", [9_500, 20_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path, side: int):
    assert side**2 > MAX_PIXELS
    header = b"P4 %d %d\n" % (side, side)
    (tmp_path / "bomb.ppm").write_bytes(header)
    with pytest.raises(BadInput, match=r"image .*bomb\.ppm"):
        only(opened(tmp_path))


def test_deep_images_are_refused_instead_of_clipped(tmp_path: Path):
    Image.fromarray(np.full((2, 2), 60_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(BadInput, match=r"deep\.png has more than 8 bits"):
        only(opened(tmp_path))


def test_a_folder_without_images_lists_what_is_read(tmp_path: Path):
    with pytest.raises(BadInput, match=r"no images; files ending in \.png \.jpg"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (InputSpec("x", np.dtype(np.float32), (None, 12)), "one input of rank 4"),
        (InputSpec("x", np.dtype(np.int32), (None, 3, 2, 2)), "takes int32"),
        (InputSpec("x", np.dtype(np.float32), (None, 12, 2, 2)), "12 channels on axis 1"),
    ],
)
def test_models_that_take_no_images_are_refused(orange: Path, spec: InputSpec, message: str):
    with pytest.raises(BadInput, match=message):
        opened(orange, spec)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (104.0, 117.0, 123.0)}, "divide values meant for 0..255 by 255"),
        ({"std": (0.0,)}, "above 0"),
        ({"std": (58.0,)}, "by 255"),
        ({"image_size": (0, 4)}, "at least 1"),
        ({"layout": "hwc"}, "nchw or nhwc"),
        ({"channel_order": "gbr"}, "rgb or bgr"),
        ({"mean": (0.1, 0.2)}, "2 values, axis 1 of input 'x' has 3 channels"),
    ],
)
def test_options_out_of_range_are_refused(orange: Path, options: dict[str, object], message: str):
    with pytest.raises(BadInput, match=message):
        only(opened(orange, **options))
