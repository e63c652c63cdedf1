from dataclasses import replace

import numpy as np
import pytest

from onnxprune.calibration.leaves import Leaves, dead_leaves

PLAIN = Leaves(gain=0.5, correlation=0.8, smallest=0.06, shapes=15, contrast=0.0)


def drawn(leaves: Leaves, count: int, planes: tuple[int, int, int] = (3, 32, 32)) -> np.ndarray:
    return np.stack([dead_leaves(leaves, np.random.default_rng((0, at)), planes) for at in range(count)])


@pytest.mark.parametrize("planes", [(3, 32, 32), (1, 9, 8), (64, 8, 11), (3, 48, 320)])
@pytest.mark.parametrize("shapes", [1, 300])
def test_pictures_of_any_planes_are_finite_and_bounded(planes: tuple[int, int, int], shapes: int):
    picture = dead_leaves(Leaves(gain=3, shapes=shapes), np.random.default_rng(0), planes)
    assert picture.shape == planes
    assert picture.dtype == np.float32
    assert float(np.abs(picture).max()) <= np.float32(2.2)
    assert np.isfinite(picture).all()


def test_the_gain_is_the_deviation_over_all_pictures():
    pictures = drawn(PLAIN, 600)
    assert abs(float(pictures.mean())) < 0.03
    np.testing.assert_allclose(pictures.std((0, 2, 3)), 0.5, rtol=0.05)
    # The same seeds paint the same shapes, so that the gain is all that differs.
    np.testing.assert_allclose(drawn(replace(PLAIN, gain=0.1), 5), drawn(PLAIN, 5) / 5, rtol=1e-4, atol=1e-6)


def test_contrast_varies_the_gain_from_picture_to_picture():
    steady, varied = drawn(PLAIN, 40), drawn(replace(PLAIN, gain=0.2, contrast=0.4), 40)
    logarithm = np.log(varied.std((1, 2, 3)) / steady.std((1, 2, 3)))
    assert abs(float(logarithm.std()) - 0.4) < 0.12
    assert float(steady.std()) > float(varied.std())


def test_channels_correlate_as_asked():
    for correlation in (0.0, 0.8):
        channels = drawn(replace(PLAIN, gain=0.3, correlation=correlation), 400).transpose(1, 0, 2, 3).reshape(3, -1)
        # Shading, a twentieth of the variance, is common to all channels.
        expected = 0.045 + 0.955 * correlation
        assert abs(np.corrcoef(channels)[0, 1] - expected) < 0.05


def test_the_spectrum_falls_as_that_of_photographs_and_not_as_that_of_noise():
    power = (np.abs(np.fft.fft2(drawn(PLAIN, 200)[:, 0])) ** 2).mean(0)
    # 1/f² of the frequency squared; white noise has 1, frequencies 2.9 and 14.5 at 1/f² have 25.
    ratio = power[1:5, 1:5].mean() / power[12:17, 12:17].mean()
    assert 15 < ratio < 400


def test_smaller_and_more_shapes_have_more_edges():
    def edges(leaves: Leaves) -> float:
        pictures = drawn(leaves, 40)
        return float(np.abs(np.diff(pictures, axis=-1)).mean() / pictures.std())

    assert edges(replace(PLAIN, smallest=0.03, shapes=80)) > 1.5 * edges(replace(PLAIN, shapes=8, smallest=0.12))


def test_one_shape_is_opaque_with_a_straight_shading():
    picture = dead_leaves(
        Leaves(gain=0.1, correlation=0.5, smallest=0.3, shapes=1, contrast=0), np.random.default_rng(2), (2, 40, 40)
    )
    background = picture[:, 0, 0]
    inside = (picture != background[:, None, None]).all(0)
    assert 40 < inside.sum() < 1500
    y, x = np.nonzero(inside)
    design = np.stack((x, y, np.ones_like(x)), 1).astype(np.float64)
    for channel in picture:
        fit, *_ = np.linalg.lstsq(design, channel[inside].astype(np.float64), rcond=None)
        np.testing.assert_allclose(design @ fit, channel[inside], atol=1e-5)


def test_a_shape_is_painted_whole_within_its_bounding_box():
    # The outline of ellipses and of rectangles is convex: each row of pixels holds one run.
    for seed in range(30):
        picture = dead_leaves(Leaves(shapes=1, smallest=0.2), np.random.default_rng(seed), (1, 64, 48))[0]
        values, counts = np.unique(picture, return_counts=True)
        inside = picture != values[counts.argmax()]
        if counts.max() < 20:
            continue
        runs = np.diff(inside.astype(int), axis=1, prepend=0).clip(0).sum(1)
        assert runs.max() <= 1
