"""One rule of what is an image and what is hidden, in every program that takes a folder."""

from __future__ import annotations

import os
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from src.compression.photographs import open_photographs
from src.config import MindRecordConfig
from src.dataset import open_source
from src.dataset.image_files import image_files, say_passed_over
from src.dataset.options import DataConfig
from src.dataset.packing import pack
from src.dataset.source import IMAGE_FORMATS, IMAGE_SUFFIXES
from src.inference.classify import _image_paths

HIDDEN = ("__MACOSX", ".ipynb_checkpoints", "@eaDir", ".git")
LINE = "passed over 8 that are no images: 5 hidden, 1 .heic, 1 .txt, 1 without a suffix"


@pytest.fixture
def photographs(tmp_path):
    """A folder of two classes with images of three suffixes, among what programs and systems leave."""
    for name in ("cat", "dog"):
        folder = tmp_path / "train" / name
        folder.mkdir(parents=True)
        for file in ("a.JFIF", "b.jpe", "c.jpg"):
            Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / file, "JPEG")
    cat = tmp_path / "train" / "cat"
    for name in HIDDEN:
        (cat / name).mkdir()
        shutil.copy(cat / "c.jpg", cat / name / "c-checkpoint.jpg")
    for name in ("._c.jpg", "notes.txt", "d.HEIC", "README"):
        shutil.copy(cat / "c.jpg", cat / name)
    return tmp_path


def test_all_suffixes_of_readable_formats_are_images():
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in (*IMAGE_FORMATS, "MPO")}
    assert suffixes - set(IMAGE_SUFFIXES) == {".pfm"}, "floating-point pixels, which are refused"
    assert set(IMAGE_SUFFIXES) <= suffixes


def test_what_is_passed_over_is_counted_by_kind(photographs, capsys):
    passed_over = Counter()
    assert [file.name for file in image_files(photographs / "train" / "cat", passed_over)] == [
        "a.JFIF",
        "b.jpe",
        "c.jpg",
    ]
    say_passed_over(photographs, passed_over)
    assert capsys.readouterr().err == f"{photographs}: {LINE}\n"


def test_nothing_is_said_where_nothing_was_passed_over(photographs, capsys):
    open_photographs(str(photographs / "train" / "dog"), None, ("", ""), ["a"])
    assert capsys.readouterr().err == ""


def test_every_program_takes_the_same_images_and_says_so(photographs, tmp_path, capsys):
    data = {"dataset": "image_folder", "data_path": str(photographs)}
    found = {
        "training": lambda: len(open_source(DataConfig(**data), "train")),
        "class folders alone": lambda: len(
            open_source(DataConfig(**data | {"data_path": f"{photographs}/train"}), "all")
        ),
        "infer.py": lambda: len(_image_paths([str(photographs)])[0]),
        "compress.py": lambda: len(open_photographs(str(photographs), None, ("", ""), ["a"])),
        "to_mindrecord.py": lambda: pack(MindRecordConfig(str(tmp_path / "packed"), **data))["train"],
    }
    for what, count in found.items():
        assert count() == 6, what
        assert [LINE in line for line in capsys.readouterr().err.splitlines()] == [True], what


def test_a_hidden_folder_is_no_class_and_holds_no_images(photographs):
    for name in HIDDEN:
        shutil.copytree(photographs / "train" / "dog", photographs / "train" / name)
        shutil.copytree(photographs / "train" / "dog", photographs / name)
    source = open_source(DataConfig(dataset="image_folder", data_path=str(photographs)), "train")
    assert (source.classes, len(source)) == (["cat", "dog"], 6)
    source = open_source(DataConfig(dataset="image_folder", data_path=str(photographs / "train")), "all")
    assert (source.classes, len(source)) == (["cat", "dog"], 6)


def test_a_hidden_folder_that_is_named_is_taken(photographs):
    hidden = photographs / "train" / "cat" / ".git"
    assert [os.path.basename(file) for file in _image_paths([str(hidden)])[0]] == ["c-checkpoint.jpg"]


def test_images_in_the_order_of_their_paths(tmp_path):
    for name in ("b/1.png", "b-c/1.png", "b.png", "a/z.png", "a b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert image_files(tmp_path) == sorted(tmp_path.rglob("*.png"))
