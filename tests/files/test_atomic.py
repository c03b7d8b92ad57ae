import os
from pathlib import Path

import numpy as np
import pytest

from src.files.atomic import open_growing, remove_leftovers, write_arrays, write_bytes, write_text, written
from tests.made_data import refusal


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_file_has_the_mode_that_the_umask_gives_whatever_a_library_sets(tmp_path, umask):
    before = os.umask(umask)
    try:
        with written(tmp_path / "net.ckpt") as temporary:
            temporary.write_bytes(b"weights")
            temporary.chmod(0o400)
            temporary.parent.chmod(0o700)
    finally:
        os.umask(before)
    assert (tmp_path / "net.ckpt").stat().st_mode & 0o777 == 0o666 & ~umask
    assert os.listdir(tmp_path) == ["net.ckpt"]


def test_the_body_finds_a_path_of_the_same_suffix_on_the_same_disk_and_may_leave_more_there(tmp_path):
    with written(tmp_path / "x.onnx") as temporary:
        assert temporary.suffix == ".onnx" and temporary.stat().st_dev == tmp_path.stat().st_dev
        (temporary.parent / "more").write_bytes(b"")
        temporary.write_bytes(b"model")
    assert os.listdir(tmp_path) == ["x.onnx"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_else_the_body_raises_goes_on_and_leaves_nothing(tmp_path, error):
    with pytest.raises(error), written(tmp_path / "file"):
        raise error
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Path.mkdir, "a folder has this name"),
        (os.mkfifo, "not a plain file"),
        (lambda path: path.symlink_to("/dev/null"), "not a plain file"),
        (lambda path: path.symlink_to(path.parent), "a folder has this name"),
    ],
)
def test_what_is_no_plain_file_is_never_replaced(tmp_path, make, reason):
    make(tmp_path / "file")
    message = refusal(write_bytes, tmp_path / "file", b"content")
    assert message == f"{tmp_path / 'file'}: cannot be written ({reason}); make room, or choose another place"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["x" * 300, "x/y", "file/y"])
def test_a_place_that_cannot_be_is_one_line(tmp_path, name):
    (tmp_path / "file").touch()
    assert "cannot be written (" in refusal(write_text, tmp_path / name, "text")
    assert os.listdir(tmp_path) == ["file"]


def test_the_longest_name_that_a_file_may_have_works(tmp_path):
    write_text(tmp_path / ("x" * 255), "text")
    assert os.listdir(tmp_path) == ["x" * 255]


def test_arrays_come_back(tmp_path):
    write_arrays(tmp_path / "a.npz", {"one": np.ones(3), "names": np.array(["a", "bc"])})
    read = np.load(tmp_path / "a.npz")
    assert read["one"].tolist() == [1, 1, 1] and read["names"].tolist() == ["a", "bc"]


def test_what_a_killed_process_has_left_is_removed_and_nothing_else(tmp_path):
    process = os.fork()
    if not process:
        with written(tmp_path / "file") as temporary:
            temporary.write_bytes(b"half")
            os._exit(0)
    os.waitpid(process, 0)
    (tmp_path / ".mine").mkdir()
    assert len(os.listdir(tmp_path)) == 2
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == [".mine"]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_log_is_not_opened_where_it_cannot_be_written(tmp_path, make):
    make(tmp_path / "train.log")
    assert "train.log: cannot be written (" in refusal(open_growing, tmp_path / "train.log", "a")
