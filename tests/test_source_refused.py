"""Calibration data that do not fit, or are damaged, are refused with the way out."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from source_case import DATA, F32, I64, KINDS, PAIR, X, opened, saved

from onnxprune.calibration import spool
from onnxprune.calibration.images import ImageOptions
from onnxprune.calibration.inputs import InputSpec
from onnxprune.calibration.source import open_source
from onnxprune.errors import BadInput


@pytest.mark.parametrize(
    ("array", "spec", "message"),
    [
        (DATA.astype(np.float64), X, r"float64, input 'input' takes float32: array.astype\(np.float32\)"),
        (DATA.astype(np.uint8), X, "give --mean and --std"),
        (DATA.astype(np.int64), X, r"astype\(np.float32\)"),
        (DATA.astype(">f4"), X, r">f4|float32"),
        (np.ones((2, 3), np.float32), InputSpec("ids", I64, (None, 3)), r"astype\(np.int64\)"),
        (np.ones((2, 3), np.int32), InputSpec("ids", I64, (None, 3)), r"astype\(np.int64\)"),
        (np.empty(2, object), X, "plain array of float32"),
        (DATA[:, :2], X, "axis 1 is 2, it must be 3"),
        (DATA[0], X, "rank 3"),
        (DATA[:0], X, "is empty"),
    ],
)
@pytest.mark.parametrize("as_feeds", [False, True])
def test_arrays_that_do_not_fit_are_refused_with_the_fix(
    array: np.ndarray, spec: InputSpec, message: str, as_feeds: bool
):
    with pytest.raises(BadInput, match=message):
        opened(iter([array]) if as_feeds else array, spec)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_value_that_is_not_finite_is_named_by_its_place_in_the_array(value: float):
    bad = DATA.copy()
    bad[9, 2, 0, 3] = value
    source = opened(bad)
    with pytest.raises(BadInput, match=r"input 'input' holds -?(nan|inf) at \[9, 2, 0, 3\]"):
        list(source.batches())


def test_names_that_fit_no_input_are_refused_with_both_sides(tmp_path: Path):
    np.savez(tmp_path / "data.npz", a=np.ones((2, 2), np.float32), c=np.ones((2, 3)))
    with pytest.raises(BadInput, match=r"no array for 'b': it holds 'a', 'c', the model takes 'a', 'b'"):
        opened(tmp_path / "data.npz", *PAIR)
    with pytest.raises(BadInput, match="no array for 'input'"):
        opened(tmp_path / "data.npz")


def test_arrays_of_different_length_are_refused():
    a, b = np.ones((5, 2), np.float32), np.ones((4, 3), np.int64)
    with pytest.raises(BadInput, match=r"different numbers of samples: 'a' \(5, 2\), 'b' \(4, 3\)"):
        opened({"a": a, "b": b}, *PAIR)
    with pytest.raises(BadInput, match="feed 0 has batches of different sizes"):
        opened([{"a": a, "b": b}], *PAIR)


def test_a_pickle_inside_npy_is_never_loaded(tmp_path: Path):
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    trap = np.array([Trap()], dtype=object)
    np.save(tmp_path / "trap.npy", trap, allow_pickle=True)
    np.savez(tmp_path / "trap.npz", input=trap)
    for name in ("trap.npy", "trap.npz"):
        with pytest.raises(BadInput, match="Python objects"):
            opened(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, kind: str, share: float):
    path = saved(tmp_path, kind)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(BadInput, match="truncated"):
        opened(path)


def test_a_damaged_member_is_refused(tmp_path: Path):
    path = saved(tmp_path, "npz compressed")
    whole = bytearray(path.read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 64] = bytes(64)
    path.write_bytes(whole)
    with pytest.raises(BadInput, match="damaged"):
        opened(path)


def test_a_header_that_announces_more_than_there_is_is_refused(tmp_path: Path):
    path = tmp_path / "big.npz"
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 3, 4, 4), }"
    body = b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header + b"\n" + bytes(64)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("input.npy", body)
    with pytest.raises(BadInput, match="64 bytes of data where its header announces 192000000000000"):
        opened(path)


def test_a_full_disk_is_one_clear_error(monkeypatch: pytest.MonkeyPatch):
    class FullFile:
        def write(self, _: bytes) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool.tempfile, "TemporaryFile", FullFile)
    with pytest.raises(BadInput, match="No space left on device; free some space or point TMPDIR"):
        opened(iter([DATA]))


@pytest.mark.parametrize(
    ("calib", "message"),
    [
        ("missing.npz", "does not exist"),
        (7, "type int"),
        ([], "yields no feeds"),
        (iter([(DATA, np.arange(11))]), "feed 0 is a tuple: yield a dict"),
        (iter([DATA, DATA[..., :2]]), "feed 1"),
        (iter([[DATA]]), "feed 0 is a list"),
    ],
)
def test_what_is_no_source_is_refused(calib: object, message: str):
    with pytest.raises(BadInput, match=message):
        opened(calib)


def test_feeds_of_changing_size_are_refused_where_the_model_would_take_them():
    spec = InputSpec("input", F32, (None, 3, None, None))
    with pytest.raises(BadInput, match=r"feed 1 for 'input' holds samples of float32 \(3, 4, 2\)"):
        opened(iter([DATA, DATA[..., :2]]), spec)


def test_a_file_of_another_kind_is_refused(tmp_path: Path):
    for name, hint in [("cat.png", "the folder that holds the image"), ("data.csv", "neither an .npz")]:
        (tmp_path / name).write_text("")
        with pytest.raises(BadInput, match=hint):
            opened(tmp_path / name)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"samples": 0}, "--samples 0"), ({"batch_size": 0}, "--batch-size 0"), ({"seed": -1}, "--seed -1")],
)
def test_numbers_out_of_range_are_refused(options: dict[str, int], message: str):
    with pytest.raises(BadInput, match=message):
        opened(DATA, **options)  # type: ignore[arg-type]


def test_a_model_without_inputs_cannot_be_calibrated():
    with pytest.raises(BadInput, match="no inputs"):
        open_source(None, [], samples=1, batch_size=1, seed=0, image=ImageOptions())
