"""Arrays on disk come back as they went."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from onnxprune.calibration.tape import Tape
from onnxprune.errors import BadInput

ARRAYS = [
    np.arange(12, dtype=np.float32).reshape(3, 4),
    np.arange(12, dtype=np.float64).reshape(3, 4).T,
    np.zeros((0, 5), np.float16),
    np.array([[True, False]]),
    np.arange(24, dtype=np.int64).reshape(2, 3, 4)[:, ::2, 1:],
]


def written() -> Tape:
    tape = Tape()
    for array in ARRAYS:
        tape.append(array)
    return tape


def test_arrays_come_back_in_order_and_in_any_order() -> None:
    tape = written()
    assert len(tape) == len(ARRAYS)
    assert tape.bytes == sum(array.nbytes for array in ARRAYS)
    for found in (list(tape), [tape[i] for i in (4, 0, 3, 1, 2)]):
        order = range(5) if found[0].shape == (3, 4) else (4, 0, 3, 1, 2)
        for array, i in zip(found, order, strict=True):
            np.testing.assert_array_equal(array, ARRAYS[i])
            assert array.dtype == ARRAYS[i].dtype


def test_a_scalar_comes_back_without_an_axis() -> None:
    tape = Tape()
    tape.append(np.array(7))
    assert (tape[0].shape, int(tape[0])) == ((), 7)


def test_writing_goes_on_behind_what_was_read() -> None:
    tape = Tape()
    for number in range(5):
        tape.append(np.full(3, number))
        assert tape[0].tolist() == [0, 0, 0]
    assert [int(array[0]) for array in tape] == [0, 1, 2, 3, 4]


def test_a_tape_that_is_cut_is_written_on_in_the_same_room() -> None:
    tape = written().cut(2)
    assert (len(tape), tape.bytes) == (2, ARRAYS[0].nbytes + ARRAYS[1].nbytes)
    tape.append(np.full(2, 7.0))
    np.testing.assert_array_equal(tape[1], ARRAYS[1])
    np.testing.assert_array_equal(tape[2], [7.0, 7.0])
    assert tape.cut(0).bytes == len(tape) == 0


def test_threads_may_write_in_any_order() -> None:
    tape, arrays = Tape(), [np.full((50, i % 7 + 1), i) for i in range(60)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: tape.put(i, arrays[i]), reversed(range(60))))
    assert len(tape) == 60
    for array, found in zip(arrays, tape, strict=True):
        np.testing.assert_array_equal(found, array)
    assert tape.cut(3).bytes >= sum(array.nbytes for array in arrays[:3])
    tape.put(3, np.arange(4))
    assert [found.tolist() for found in tape] == [*(array.tolist() for array in arrays[:3]), [0, 1, 2, 3]]


def test_what_is_written_in_part_is_written_on(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr("os.pwrite", lambda file, data, start: whole(file, data[:5], start))
    assert list(written())[4].tolist() == ARRAYS[4].tolist()


def test_a_full_disk_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(BadInput, match=r"no room for activations in .*No space left on device; set TMPDIR"):
        Tape().append(np.ones(3))
