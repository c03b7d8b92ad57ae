import os
from pathlib import Path

import pytest

from src.files.bounded import open_file, read_bytes, read_text
from tests.made_data import refusal


@pytest.mark.parametrize(("size", "most"), [(0, 0), (9, 10), (10, 10)])
def test_a_file_within_its_bound_is_read(tmp_path, size, most):
    (tmp_path / "file").write_bytes(b"x" * size)
    assert read_bytes(tmp_path / "file", most) == b"x" * size


def test_a_longer_file_is_refused_and_the_advice_stands_at_the_end(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 1001)
    message = refusal(read_bytes, tmp_path / "file", 1000, "take another")
    assert message == f"{tmp_path / 'file'}: is longer than 1,000 bytes; take another"


@pytest.mark.parametrize(
    "make",
    [
        Path.mkdir,
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("/dev/null"),
        lambda path: path.symlink_to(path),
        lambda path: path.symlink_to("nowhere"),
        lambda path: None,
    ],
    ids=["folder", "pipe", "zero", "null", "loop", "dangling", "missing"],
)
def test_what_is_no_plain_file_is_refused_without_waiting(tmp_path, make):
    make(tmp_path / "file")
    assert refusal(read_bytes, tmp_path / "file", 10).startswith(f"{tmp_path / 'file'}: cannot be read (")
    with pytest.raises(OSError):
        open_file(tmp_path / "file")


@pytest.mark.parametrize("content", ["é\n", "\ufeffé\n"])
def test_a_text_is_read_with_and_without_a_byte_order_mark(tmp_path, content):
    (tmp_path / "file").write_text(content, encoding="utf-8")
    assert read_text(tmp_path / "file", 10) == "é\n"


def test_a_text_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "file").write_text("é", encoding="utf-16")
    assert "is not UTF-8 text" in refusal(read_text, tmp_path / "file", 10)
