"""Calibration sources stream what they were given, the same in every pass."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from source_case import DATA, F32, FIXED, I64, KINDS, PAIR, Reader, X, opened, ordered, read, saved

from onnxprune.calibration import spool
from onnxprune.calibration.arrays import choose_rows
from onnxprune.calibration.images import ImageOptions
from onnxprune.calibration.inputs import InputSpec
from onnxprune.calibration.source import load_labelled, open_calibration
from onnxprune.errors import BadInput


@pytest.mark.parametrize("kind", KINDS)
def test_files_stream_their_arrays_the_same_in_every_pass(tmp_path: Path, kind: str):
    source = opened(saved(tmp_path, kind))
    batches = list(source.batches())
    assert [len(batch["input"]) for batch in batches] == [4, 4, 3]
    assert all(batch["input"].flags.c_contiguous and batch["input"].flags.aligned for batch in batches)
    np.testing.assert_array_equal(read(source), DATA[choose_rows(11, None, 0)])
    np.testing.assert_array_equal(read(source), read(source))
    assert (source.samples, source.synthetic) == (11, False)
    assert source.description.startswith("data.np")
    assert source.description.endswith("11 of 11 samples")


@pytest.mark.parametrize(
    "calib",
    [
        lambda: DATA,
        lambda: {"input": DATA},
        lambda: [DATA[:5], DATA[5:]],
        lambda: (DATA[at : at + 1] for at in range(11)),
        lambda: iter([{"input": DATA[:3]}, {"input": DATA[3:4]}, {"input": DATA[4:]}]),
        lambda: Reader(11),
    ],
    ids=["array", "mapping", "list", "generator of arrays", "iterator of uneven feeds", "data reader"],
)
def test_objects_stream_the_same_in_every_pass(calib: Callable[[], object]):
    source = opened(calib())
    np.testing.assert_array_equal(ordered(read(source)), ordered(DATA))
    np.testing.assert_array_equal(read(source), read(source))
    assert [len(feed["input"]) for feed in source.batches()] == [4, 4, 3]


def test_a_stream_is_read_no_further_than_needed():
    taken = []

    def stream() -> Iterator[np.ndarray]:
        for at in range(11):
            taken.append(at)
            yield DATA[at : at + 1]

    source = opened(stream(), samples=3)
    np.testing.assert_array_equal(ordered(read(source)), ordered(DATA[:3]))
    assert taken == [0, 1, 2]


def test_a_list_of_feeds_is_drawn_from_and_not_cut_off():
    feeds = [np.full((2, 3, 4, 4), at, np.float32) for at in range(50)]
    source = opened(feeds, samples=10)
    seen = read(source)[:, 0, 0, 0].tolist()
    assert source.samples == 10
    assert sorted(seen) == np.repeat(np.sort(choose_rows(50, 5, 0)), 2).tolist()
    assert max(seen) > 10


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files the Linux way")
def test_the_temporary_file_goes_with_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(spool.tempfile, "tempdir", str(tmp_path))

    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(str(tmp_path))

    source = opened(DATA[at : at + 1] for at in range(11))
    assert mapped() == 1
    assert list(tmp_path.iterdir()) == []  # unnamed: gone even if the process is killed
    del source
    gc.collect()
    assert mapped() == 0


def test_stored_arrays_are_mapped_and_not_read(tmp_path: Path):
    for kind in ("npy", "npz stored", "npz compressed"):
        arrays = spool.open_arrays(saved(tmp_path, kind))
        array = arrays["x"] if isinstance(arrays, dict) else arrays.array("input")
        assert isinstance(array.base, np.memmap)
        assert not array.flags.writeable


def test_samples_are_drawn_without_replacement(tmp_path: Path):
    source = opened(saved(tmp_path, "npy"), samples=5, seed=3)
    rows = np.random.default_rng(3).choice(11, 5, replace=False)
    np.testing.assert_array_equal(read(source), DATA[rows])
    assert source.description == "data.npy: 5 of 11 samples"


@given(st.integers(1, 2000), st.none() | st.integers(1, 2000), st.integers(0, 9))
def test_rows_are_distinct_and_as_many_as_asked(total: int, samples: int | None, seed: int):
    rows = choose_rows(total, samples, seed)
    assert len(rows) == min(total, 512 if samples is None else samples)
    assert len(set(rows.tolist())) == len(rows)
    assert rows.min() >= 0 and rows.max() < total


def test_sorted_data_come_mixed() -> None:
    """Layers that need few inputs take the first, and what judges is the last: both should be of all classes."""
    classes = np.repeat(np.arange(8), 64)[choose_rows(512, None, 0)]
    for part in (classes[:64], classes[-64:]):
        assert np.bincount(part, minlength=8).min() >= 2


def test_a_model_of_fixed_batch_one_sees_every_sample():
    source = opened(DATA, InputSpec("input", F32, (1, 3, 4, 4)), batch_size=32)
    assert [feed["input"].shape for feed in source.batches()] == [(1, 3, 4, 4)] * 11
    np.testing.assert_array_equal(ordered(read(source)), ordered(DATA))


def test_a_fixed_batch_drops_the_samples_that_fill_none_and_says_so():
    source = opened(DATA, FIXED)
    assert source.samples == 8
    assert "8 of 11 samples; 3 samples dropped, the model's batch is fixed at 4" in source.description
    np.testing.assert_array_equal(read(source), DATA[choose_rows(11, None, 0)[:8]])
    with pytest.raises(BadInput, match="fixed at 4, 3 samples fill none: give 4 or more"):
        opened(DATA[:3], FIXED)


def test_dynamic_sides_come_from_the_data_and_batch_from_the_user():
    spec = InputSpec("input", F32, (None, 3, None, None))
    common = {"samples": None, "batch_size": 4, "seed": 0, "image": ImageOptions()}
    free = open_calibration(DATA, [spec], {}, **common)  # type: ignore[arg-type]
    assert free.specs[0].shape == (None, 3, 4, 4)
    assert free.guesses == []
    bound = open_calibration(DATA, [spec], {"input": (2, 3, 4, 4)}, **common)  # type: ignore[arg-type]
    assert bound.specs[0].shape == (2, 3, 4, 4)
    assert [len(feed["input"]) for feed in bound.source.batches()] == [2] * 5


def test_several_inputs_are_fed_by_name_in_step(tmp_path: Path):
    a, b = np.arange(10, dtype=np.float32).reshape(5, 2), np.arange(15).reshape(5, 3)
    np.savez(tmp_path / "pair.npz", b=b, a=a, note=np.zeros(1))
    source = opened(tmp_path / "pair.npz", *PAIR, samples=3)
    rows = choose_rows(5, 3, 0)
    np.testing.assert_array_equal(read(source, "a"), a[rows])
    np.testing.assert_array_equal(read(source, "b"), b[rows])


def test_inputs_without_batch_axis_get_one_value_and_others_are_batched_where_the_model_says():
    specs = [
        InputSpec("x", F32, (None, 6), ("batch", None)),
        InputSpec("state", F32, (2, None, 3), (None, "batch", None)),
        InputSpec("rate", I64, ()),
    ]
    x, state, rate = np.ones((5, 6), np.float32), np.arange(30, dtype=np.float32).reshape(2, 5, 3), np.array(16)
    streamed = ({"x": x[at : at + 1], "state": state[:, at : at + 1], "rate": rate} for at in range(5))
    for calib in ({"x": x, "state": state, "rate": rate}, streamed):
        feeds = list(opened(calib, *specs).batches())
        assert [feed["x"].shape for feed in feeds] == [(4, 6), (1, 6)]
        found = np.concatenate([feed["state"] for feed in feeds], 1)
        np.testing.assert_array_equal(ordered(np.moveaxis(found, 1, 0)), np.moveaxis(state, 1, 0))
        assert [feed["rate"].shape for feed in feeds] == [(), ()]


def test_an_array_of_one_fixed_batch_beside_longer_ones_is_constant():
    specs = (InputSpec("x", F32, (1, 6)), InputSpec("size", F32, (1, 2)))
    feeds = list(opened({"x": np.ones((5, 6), np.float32), "size": np.ones((1, 2), np.float32)}, *specs).batches())
    assert [feed["size"].shape for feed in feeds] == [(1, 2)] * 5


def test_uint8_takes_mean_and_std_per_channel_in_either_layout():
    pixels = np.random.default_rng(1).integers(0, 256, (6, 3, 4, 4), np.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.5)
    expected = (pixels / 255 - np.reshape(mean, (1, 3, 1, 1))) / np.reshape(std, (1, 3, 1, 1))
    source = opened(pixels, mean=mean, std=std)
    assert read(source).dtype == np.float32
    expected = expected[choose_rows(6, None, 0)]
    np.testing.assert_allclose(read(source), expected, atol=1e-5)
    assert "uint8 scaled by mean and std" in source.description
    last = opened(pixels.transpose(0, 2, 3, 1), InputSpec("input", F32, (None, 4, 4, 3)), mean=mean, std=std)
    np.testing.assert_allclose(read(last), expected.transpose(0, 2, 3, 1), atol=1e-5)


def test_mean_alone_and_std_alone_are_enough():
    pixels = np.full((2, 3, 4, 4), 51, np.uint8)
    np.testing.assert_allclose(read(opened(pixels, mean=(0.1,))), 0.1, atol=1e-6)
    np.testing.assert_allclose(read(opened(pixels, std=(0.1,))), 2.0, atol=1e-6)


def test_float_arrays_are_taken_as_they_are_and_the_description_says_so():
    source = opened(DATA, mean=(0.5,), std=(0.5,))
    np.testing.assert_array_equal(read(source), DATA[choose_rows(11, None, 0)])
    assert "taken as they are" in source.description


def test_labelled_data_come_whole_and_in_order(tmp_path: Path):
    path = tmp_path / "eval.npz"
    x = np.random.default_rng(0).integers(0, 256, (700, 3, 4, 4), np.uint8)
    np.savez(path, x=x, y=np.arange(700) % 10)
    source, labels = load_labelled(path, [X], ImageOptions(mean=(0.5,), std=(0.5,)))
    assert source.samples == 700
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, np.arange(700) % 10)
    np.testing.assert_allclose(read(source), x / 127.5 - 1, atol=1e-5)


def test_labels_follow_the_samples_that_a_fixed_batch_drops(tmp_path: Path):
    np.savez(tmp_path / "eval.npz", input=DATA, y=np.arange(11, dtype=np.uint8))
    source, labels = load_labelled(tmp_path / "eval.npz", [FIXED], ImageOptions())
    assert source.samples == 8
    assert labels.tolist() == list(range(8))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({}, "no array 'y'; it holds 'x'"),
        ({"y": np.arange(10)}, "11 samples but 10 labels"),
        ({"y": np.zeros(11)}, "float64"),
        ({"y": np.eye(11, dtype=np.int64)}, r"y.argmax\(axis=1\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, labels: dict[str, np.ndarray], message: str):
    np.savez(tmp_path / "eval.npz", x=DATA, **labels)
    with pytest.raises(BadInput, match=message):
        load_labelled(tmp_path / "eval.npz", [X], ImageOptions())


def test_labelled_data_are_an_npz(tmp_path: Path):
    np.save(tmp_path / "x.npy", DATA)
    with pytest.raises(BadInput, match="holds one array"):
        load_labelled(tmp_path / "x.npy", [X], ImageOptions())
