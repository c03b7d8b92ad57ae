"""Data sets packed into MindRecord: the same images, and what becomes of interruptions and of damaged files."""

from __future__ import annotations

import json
import shutil
import sqlite3

import mindspore.dataset as ds
import numpy as np
import pytest

from src.config import DataConfig, MindRecordConfig
from src.dataset import open_source, preprocessing_of, splits, training_pipeline
from src.dataset import packing as packing_module
from src.dataset.packing import pack
from tests.made_data import read_all, refusal, write_image_folder

COUNTS = {"train": {"ant": 9, "bee": 8, "cow": 6}, "val": {"ant": 1, "cow": 2}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Class folders of small images of noise."""
    folder = tmp_path_factory.mktemp("folders")
    random = np.random.RandomState(0)
    write_image_folder(
        folder,
        {
            split: {name: random.randint(0, 256, (n, 20, 30, 3)).astype(np.uint8) for name, n in classes.items()}
            for split, classes in COUNTS.items()
        },
    )
    return folder


def packing(data_path, output_path, **options):
    return MindRecordConfig(str(output_path), "image_folder", str(data_path), **options)


@pytest.fixture(scope="module")
def packed(folders, tmp_path_factory):
    """The same images packed, the training images into three files."""
    folder = tmp_path_factory.mktemp("packed") / "with a space" / "set"
    assert pack(packing(folders, folder, files=3)) == {"train": 23, "val": 3}
    return folder


def data(kind, folder):
    return DataConfig(dataset=kind, data_path=str(folder), image_size=16, batch_size=4, augment="crop_flip")


def test_every_image_comes_back_with_its_label_and_name(folders, packed):
    assert splits(data("mindrecord", packed)) == ("train", "val")
    assert len(list((packed / "train").glob("*.mindrecord"))) == 3
    for split in COUNTS:
        files, rows = (
            open_source(data(kind, folder), split)
            for kind, folder in (("image_folder", folders), ("mindrecord", packed))
        )
        assert rows.classes == files.classes == ["ant", "bee", "cow"]
        assert (rows.mean, rows.std) == (files.mean, files.std)
        assert rows.labels.tolist() == files.labels.tolist()
        for i in reversed(range(len(files))):
            np.testing.assert_array_equal(rows.image(i), files.image(i))
            assert rows.name(i) == files.name(i)


def test_a_training_sees_the_same_batches(folders, packed):
    batches = []
    for kind, folder in (("image_folder", folders), ("mindrecord", packed)):
        source = open_source(data(kind, folder), "train")
        config = data(kind, folder)
        batches.append(read_all(training_pipeline(source, config, preprocessing_of(config, source), 7)))
    for ours, theirs in zip(*batches):
        np.testing.assert_array_equal(ours, theirs)


def test_mindspores_own_data_set_reads_the_files(folders, packed):
    source = open_source(data("image_folder", folders), "train")
    files = sorted(map(str, (packed / "train").glob("*.mindrecord")))
    rows = ds.MindDataset(files, ["image", "name", "label"], shuffle=False)
    found = list(rows.create_dict_iterator(num_epochs=1, output_numpy=True))
    assert [row["image"].tobytes() for row in found] == [source.file(i).read_bytes() for i in range(len(source))]
    assert [row["label"].item() for row in found] == source.labels.tolist()
    assert [row["name"].tobytes().decode().rsplit("/", 1)[1] for row in found] == list(map(source.name, range(23)))


@pytest.mark.parametrize("end", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_packing_leaves_nothing(folders, tmp_path, monkeypatch, end):
    def interrupted(file, rows, write=packing_module._write_file):
        write(file, rows)
        raise end

    monkeypatch.setattr(packing_module, "_write_file", interrupted)
    if isinstance(end, OSError):
        assert "No space left on device" in refusal(pack, packing(folders, tmp_path / "set"))
    else:
        with pytest.raises(KeyboardInterrupt):
            pack(packing(folders, tmp_path / "set"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_already_is_refused_and_stays(folders, tmp_path):
    (tmp_path / "mine").write_text("mine")
    assert "already exists" in refusal(pack, packing(folders, tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_empty_and_huge_files_are_named_and_left_out_up_to_the_limit(folders, tmp_path, monkeypatch, capsys):
    shutil.copytree(folders, tmp_path / "broken")
    ant = tmp_path / "broken" / "train" / "ant"
    (ant / "0001.png").write_bytes(b"")
    (ant / "0002.png").write_bytes(b"x" * 9000)
    monkeypatch.setattr("src.dataset.packing.MAX_ROW_BYTES", 8999)
    assert pack(packing(tmp_path / "broken", tmp_path / "set"))["train"] == 21
    warnings = capsys.readouterr().err.splitlines()
    assert [line for line in warnings if "left out" in line] == [
        f"warning: image left out: {ant}/0001.png: is empty",
        f"warning: image left out: {ant}/0002.png: is larger than a page of MindRecord",
    ]
    message = refusal(pack, packing(tmp_path / "broken", tmp_path / "other", max_broken_images=1))
    assert message.startswith(f"{ant}/0002.png: is larger") and not (tmp_path / "other").exists()


def test_a_file_that_is_no_image_is_left_out_when_it_is_read_and_named(folders, tmp_path, capsys):
    shutil.copytree(folders, tmp_path / "broken")
    (tmp_path / "broken" / "train" / "bee" / "0003.png").write_bytes(b"no image")
    pack(packing(tmp_path / "broken", tmp_path / "set"))
    config = data("mindrecord", tmp_path / "set")
    source = open_source(config, "train")
    assert len(read_all(training_pipeline(source, config, preprocessing_of(config, source), 1))[0]) == 20
    assert source.broken == {12}
    assert "warning: image left out: bee/0003.png: not an image" in capsys.readouterr().err


def truncate(folder):
    file = sorted((folder / "train").glob("*.mindrecord"))[-1]
    file.write_bytes(file.read_bytes()[: -(40 << 20)])


def spoil_lengths(folder):
    database = sqlite3.connect(sorted((folder / "train").glob("*.db"))[0])
    database.execute("UPDATE INDEXES SET PAGE_OFFSET_BLOB_END = PAGE_OFFSET_BLOB_END + (1 << 40)")
    database.commit()
    database.close()


def spoil_labels(folder):
    database = sqlite3.connect(sorted((folder / "train").glob("*.db"))[0])
    database.execute("UPDATE INDEXES SET label_0 = 3")
    database.commit()
    database.close()


def make_endless(folder):
    """Damage an index as changed pages can, so that it never ends."""
    database = sqlite3.connect(sorted((folder / "train").glob("*.db"))[0])
    database.execute("DROP TABLE INDEXES")
    columns = "i AS ROW_ID, 0 AS label_0, 0 AS PAGE_ID_BLOB, 0 AS PAGE_OFFSET_BLOB, 9 AS PAGE_OFFSET_BLOB_END"
    rows = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n)"
    database.execute(f"CREATE VIEW INDEXES AS {rows} SELECT {columns} FROM n")
    database.commit()
    database.close()


def describe(value):
    return lambda folder: (folder / "dataset.json").write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: (folder / "dataset.json").unlink(), "dataset.json: cannot be read"),
        (describe([]), "dataset.json: not written by to_mindrecord.py"),
        (describe({"classes": ["a"], "images": {"val": 3}}), "has no train images (found: val)"),
        (describe({"classes": [0], "images": {"train": 23}}), "dataset.json: not written by to_mindrecord.py"),
        (lambda folder: min((folder / "train").glob("*.mindrecord")).unlink(), "contains 15 of 23 images"),
        (lambda folder: min((folder / "train").glob("*.db")).unlink(), "the index is missing"),
        (lambda folder: min((folder / "train").glob("*.db")).write_bytes(b"x" * 5000), "missing or damaged"),
        (
            lambda folder: min((folder / "train").glob("*.mindrecord")).write_bytes(b"\xff" * 99),
            "not a MindRecord file",
        ),
        (lambda folder: min((folder / "train").glob("*.mindrecord")).write_bytes(b""), "not a MindRecord file"),
        (spoil_lengths, "an index has invalid positions or labels"),
        (spoil_labels, "an index has invalid positions or labels"),
        (make_endless, "the index is missing or damaged (interrupted)"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(packed, tmp_path, damage, problem):
    shutil.copytree(packed, tmp_path / "set")
    damage(tmp_path / "set")
    message = refusal(open_source, data("mindrecord", tmp_path / "set"), "train")
    assert problem in message and str(tmp_path / "set") in message


def test_rows_beyond_the_end_of_a_file_are_images_that_cannot_be_read(packed, tmp_path):
    shutil.copytree(packed, tmp_path / "set")
    truncate(tmp_path / "set")
    source = open_source(data("mindrecord", tmp_path / "set"), "train")
    assert source.image(0).shape == (20, 30, 3)
    assert "damaged at image 22 of the split" in refusal(source.image, 22)
