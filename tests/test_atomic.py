import errno
import hashlib
import os
from pathlib import Path

import pytest

from onnxprune.atomic import require_writable, staged, write_bytes
from onnxprune.errors import BadInput


def test_a_new_file_holds_the_bytes_and_the_usual_mode(tmp_path: Path) -> None:
    (tmp_path / "usual").write_bytes(b"")
    write_bytes(tmp_path / "a.bin", b"abc")
    assert (tmp_path / "a.bin").read_bytes() == b"abc"
    assert (tmp_path / "a.bin").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    path.chmod(0o640)
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_staged_file_knows_its_size_and_hash(tmp_path: Path) -> None:
    with staged(tmp_path / "a") as stage:
        stage.write(b"ab")
        stage.write(b"c")
        digest = stage.sha256.hexdigest()
        stage.publish(tmp_path / digest)
    assert stage.size == 3
    assert digest == hashlib.sha256(b"abc").hexdigest()
    assert (tmp_path / digest).read_bytes() == b"abc"


def test_nothing_changes_when_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), staged(path) as stage:
        stage.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with staged(path) as stage:
        stage.write(b"new")
        assert path.read_bytes() == b"old"
        stage.publish(path)
        assert path.read_bytes() == b"new"


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_a_failing_disk_is_one_sentence_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, sentence: str
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(BadInput, match=sentence):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_noticed_while_writing(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(BadInput, match="the disk is full"), staged(tmp_path / "a") as stage:
        stage.file.close()
        stage.file = full.open("wb", buffering=0)
        stage.write(b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot write .*nowhere.*: the folder does not exist"):
        write_bytes(tmp_path / "nowhere" / "a.bin", b"x")


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="the path is a folder"):
        write_bytes(tmp_path, b"x")


def test_a_file_without_write_permission_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    # The superuser may write everything, so the answer of the system is given here.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(BadInput, match="no write permission"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write everything")
def test_a_folder_without_write_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(BadInput, match="no write permission"):
        require_writable(tmp_path / "a.bin")


def test_a_symbolic_link_is_replaced_and_its_target_left_alone(tmp_path: Path) -> None:
    target, link = tmp_path / "cached", tmp_path / "link"
    target.write_bytes(b"shared")
    link.symlink_to(target)
    write_bytes(link, b"mine")
    assert target.read_bytes() == b"shared"
    assert (link.read_bytes(), link.is_symlink()) == (b"mine", False)


def test_asking_whether_a_path_is_writable_leaves_nothing_behind(tmp_path: Path) -> None:
    require_writable(tmp_path / "a.bin")
    assert list(tmp_path.iterdir()) == []
