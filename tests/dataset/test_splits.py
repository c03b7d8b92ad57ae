"""Validation images of folders: those that are there, or a fraction of the training images."""

from __future__ import annotations

import numpy as np
import pytest

from src.config import DataConfig
from src.dataset import open_source, splits
from src.dataset.splits import has_class_folders_alone, val_split_of
from tests.made_data import refusal, write_image_csv, write_image_folder

CLASSES = {"ant": 10, "bee": 5}


def images(count, start=0):
    return [np.full((4, 4, 3), start + i, np.uint8) for i in range(count)]


@pytest.fixture
def flat(tmp_path):
    """Class folders alone, of 10 and 5 images."""
    write_image_folder(tmp_path, {"photos": {"ant": images(10), "bee": images(5, 100)}})
    return tmp_path / "photos"


def data(path, kind="image_folder", **keys):
    return DataConfig(dataset=kind, data_path=str(path), **keys)


def content(source):
    return sorted(int(source.image(i)[0, 0, 0]) for i in range(len(source)))


@pytest.mark.parametrize(("given", "fraction", "val"), [(None, 0.2, 3), (0.4, 0.4, 6), (0.0, 0.0, 0)])
def test_class_folders_alone_are_split(flat, given, fraction, val):
    config = data(flat, val_split=given)
    assert val_split_of(config) == fraction and has_class_folders_alone(config)
    assert splits(config) == (("train", "val") if val else ("train",))
    train = content(open_source(config, "train"))
    held = content(open_source(config, "val")) if val else []
    assert len(held) == val and sorted(train + held) == [*range(10), *range(100, 105)]
    assert content(open_source(config, "all")) == sorted(train + held)


@pytest.mark.parametrize("kind", ["image_folder", "image_csv", "mindrecord"])
def test_train_without_val_is_split_on_request(tmp_path, kind):
    (write_image_csv if kind == "image_csv" else lambda path, train, _: write_image_folder(path, {"train": train}))(
        tmp_path, {"ant": images(10), "bee": images(5, 100)}, []
    )
    if kind == "image_csv":
        (tmp_path / "val").rmdir()
    if kind == "mindrecord":
        from src.config import MindRecordConfig
        from src.dataset.packing import pack

        pack(MindRecordConfig(str(tmp_path / "packed"), "image_folder", str(tmp_path)))
        tmp_path = tmp_path / "packed"
    assert splits(data(tmp_path, kind)) == ("train",)
    config = data(tmp_path, kind, val_split=0.2)
    assert splits(config) == ("train", "val")
    train, held = (content(open_source(config, split)) for split in ("train", "val"))
    assert len(held) == 3 and sorted(train + held) == [*range(10), *range(100, 105)]
    assert "all is for class folders" in refusal(open_source, config, "all")


@pytest.mark.parametrize("name", ["val", "valid", "Validation"])
def test_validation_images_of_its_own_count_whatever_val_split_says(tmp_path, name):
    write_image_folder(tmp_path, {"train": {"ant": images(10)}, name: {"ant": images(2, 50)}})
    config = data(tmp_path, val_split=0.2)
    assert val_split_of(config) == 0 and splits(config) == ("train", "val")
    assert content(open_source(config, "train")) == [*range(10)]
    assert content(open_source(config, "val")) == [50, 51]


def test_a_test_folder_alone_is_not_split(tmp_path):
    write_image_folder(tmp_path, {"test": {"ant": images(10)}})
    assert splits(data(tmp_path, val_split=0.2)) == ("test",)
