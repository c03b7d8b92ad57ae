"""Data sets packed into MindRecord: a few large files instead of a million small ones.

A folder contains dataset.json, with the class names and the numbers of images, and the files in train/ and val/. A row
is an unchanged encoded image with its file name and label, in the original order, so that training sees the same pixels
at the same steps. mindspore.dataset.MindDataset can read the files too, but not in an order given from outside, which
is necessary for a step's images to depend on the seed alone; so this module reads rows directly, at the positions that
each file's index gives.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sqlite3
import struct
import weakref
from pathlib import Path

import numpy as np

from src.cli.errors import UserError, first_line
from src.dataset.source import IMAGENET_MEAN, IMAGENET_STD, Choice, Source, load_image
from src.files.bounded import open_file, read_bytes

DESCRIPTION, SUFFIX, INDEX_SUFFIX = "dataset.json", ".mindrecord", ".db"
SCHEMA = {"image": {"type": "bytes"}, "name": {"type": "bytes"}, "label": {"type": "int32"}}
# MindRecord's default page, which must hold a row with its lengths, and limits for a reader's allocations.
PAGE_BYTES = 32 << 20
MAX_ROW_BYTES, MAX_DESCRIPTION_BYTES, MAX_HEADER_BYTES = PAGE_BYTES - (1 << 16), 64 << 20, 64 << 20


class MindRecordSource(Source):
    """Images in MindRecord files by index, normalised like ImageNet.

    files: of the split; blobs: names of each file's blob fields; places: (N, 3), file, position and length of each row.
    """

    decodes = True

    def __init__(self, files: list[Path], blobs: list[list[str]], places: np.ndarray, labels, classes: list[str]):
        super().__init__(classes, labels, IMAGENET_MEAN, IMAGENET_STD)
        self._files, self._blobs, self._places = files, blobs, places
        self._descriptors = [os.open(file, os.O_RDONLY) for file in files]
        weakref.finalize(self, lambda descriptors: [os.close(n) for n in descriptors], self._descriptors)

    def image(self, index: int, choice: Choice = None) -> np.ndarray:
        row = self._row(index)
        return load_image(Path(row["name"].decode("utf-8", "replace")), io.BytesIO(row["image"]), choice)

    def name(self, index: int) -> str:
        return Path(self._row(index)["name"].decode("utf-8", "replace")).name

    def _row(self, index: int) -> dict[str, bytes]:
        """Return the fields of a row. Raises UserError for an unreadable row."""
        number, position, length = (int(n) for n in self._places[index])
        try:
            content = os.pread(self._descriptors[number], length, position)
        except OSError as error:
            raise UserError(f"{self._files[number]}: cannot be read ({error.strerror})") from None
        values, start = {}, 8  # Before the first value is the length of them all.
        for name in self._blobs[number]:
            (size,) = struct.unpack_from(">Q", content, start) if len(content) >= start + 8 else (length,)
            values[name] = content[start + 8 : start + 8 + size]
            start += 8 + size
        if start != length or len(content) != length:
            raise UserError(f"{self._files[number]}: damaged at image {index:,} of the split; pack the data set again")
        return values


def open_mindrecord(path: Path, split: str) -> MindRecordSource:
    """Open a split of a folder that to_mindrecord.py has written. Raises UserError for damaged files."""
    classes, images = _read_description(path / DESCRIPTION)
    if split not in images:
        raise UserError(f"{path}: has no {split} images (found: {', '.join(images)})")
    files = sorted((path / split).glob(f"*{SUFFIX}"))
    blobs, places, labels = [], [np.empty((0, 3), np.int64)], [np.empty(0, np.int64)]
    for number, file in enumerate(files):
        header_size, page_size, names = _read_header(file)
        index = _read_index(file.with_name(file.name + INDEX_SUFFIX), images[split])
        blobs.append(names)
        position = header_size + index["page"] * page_size + index["start"]
        places.append(np.stack([np.full(len(index), number), position, index["end"] - index["start"]], axis=1))
        labels.append(index["label"])
    table, all_labels = np.concatenate(places), np.concatenate(labels)
    if len(table) != images[split]:
        raise UserError(
            f"{path / split}: contains {len(table):,} of {images[split]:,} images; copy the whole folder again"
        )
    lengths_fit = ((table[:, 1:] >= 0) & (table[:, 1:] < [[2**62, PAGE_BYTES]])).all()
    if not (lengths_fit and ((all_labels >= 0) & (all_labels < len(classes))).all()):
        raise UserError(f"{path / split}: an index has invalid positions or labels; pack the data set again")
    return MindRecordSource(files, blobs, table, all_labels, classes)


def _read_description(file: Path) -> tuple[list[str], dict[str, int]]:
    """Return the class names, and the number of images in each split."""
    content = read_bytes(file, MAX_DESCRIPTION_BYTES, "give --data_path a folder of to_mindrecord.py")
    try:
        values = json.loads(content)
        classes, images = values["classes"], values["images"]
        if not all(isinstance(name, str) for name in classes) or not all(type(n) is int for n in images.values()):
            raise ValueError("names or numbers are others")
        return list(classes), dict(images)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserError(f"{file}: not written by to_mindrecord.py; pack the data set again") from None


def _read_header(file: Path) -> tuple[int, int, list[str]]:
    """Return the size of a MindRecord file's header, the size of its pages, and the fields of a row's blob in order."""
    try:
        with open_file(file) as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, MAX_HEADER_BYTES)))
        sizes = header["header_size"], header["page_size"]
        names = [name for schema in header["schema"] for name in schema["blob_fields"]]
        if not all(type(size) is int and 0 < size < 2**40 for size in sizes) or set(names) != {"image", "name"}:
            raise ValueError("its fields are others")
        return (*sizes, names)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({first_line(error)})") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, struct.error):
        raise UserError(
            f"{file}: not a MindRecord file of to_mindrecord.py, or damaged; pack the data set again"
        ) from None


def _read_index(file: Path, rows: int) -> np.ndarray:
    """Return label, page, start and end of each row's blob, in order, from the index file of at most `rows` rows."""
    query = "SELECT label_0, PAGE_ID_BLOB, PAGE_OFFSET_BLOB, PAGE_OFFSET_BLOB_END FROM INDEXES ORDER BY ROW_ID"
    kind = np.dtype([(name, np.int64) for name in ("label", "page", "start", "end")])
    try:
        address = f"{file.resolve().as_uri()}?mode=ro&immutable=1"
        with contextlib.closing(sqlite3.connect(address, uri=True)) as database:
            # Damage can turn a database into an endless one. Sound ones take about 20 steps a row.
            database.set_progress_handler(lambda: 1, 1_000_000 + 200 * rows)
            return np.fromiter(database.execute(query), kind)
    except (sqlite3.Error, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{file}: the index is missing or damaged ({error}); pack it again") from None
