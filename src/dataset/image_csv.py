"""Class folders for training, and a CSV file that labels the validation images: train/<class>/*, val/*, val.csv."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import itertools
import os
from pathlib import Path, PurePosixPath
from typing import Iterable, Iterator, Sequence

from src.cli.errors import UserError
from src.cli.patience import announced
from src.cli.terminal import warn
from src.dataset.image_folder import SPLIT_NAMES, class_folders, open_image_folder, split_folder
from src.dataset.source import FileSource, printable
from src.files.bounded import read_bytes

MAX_TABLE_BYTES = 1 << 30
_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def open_image_csv(path: Path, split: str, csv_columns: Sequence[str]) -> FileSource:
    """Open a split. `csv_columns` are the columns of val.csv with the file name and the class.

    A file name is relative to val/ or to its parent; a class is a folder's name in train/, or a number (see
    class_indices). Without train/, the classes are those of the table, so that a network can be evaluated on it.
    """
    if split == "train":
        return open_image_folder(path, "train")
    train, folder = split_folder(path, "train"), split_folder(path, split)
    tables = [path / f"{name}.csv" for name in (folder.name, *SPLIT_NAMES[split], "labels")]
    table = next((file for file in tables if os.path.lexists(file)), tables[0])
    classes = class_folders(train) if os.path.isdir(train) or not os.path.lexists(table) else []
    lines, files, labels = [], [], []
    rows = labelled_rows(table, tuple(csv_columns), known=itertools.chain(classes, _names_in(folder)))
    for line, name, label in announced(rows, f"{table}: rows"):
        ways = (name, name.replace("\\", "/"))
        places = (os.path.join(place, way) for way in ways for place in (folder, path))  # Paths would take seconds.
        file = next(filter(os.path.isfile, places), None)
        if file is None:
            raise UserError(f"{table}, line {line}: there is no file {printable(folder / name)[:1000]}")
        lines.append(line)
        files.append(file)
        labels.append(label)
    if not files:
        raise UserError(f"{table}: no rows below the header; give it one for every image in {folder}")
    classes = classes or sorted(set(labels))
    return FileSource(files, class_indices(labels, classes, table, lines), classes)


def class_indices(labels: Sequence[str], classes: list[str], table: Path, lines: Sequence[int]) -> list[int]:
    """Return the class index of each label: of a class's name, or of a number where no class is called by one.

    Numbers count from 0, or from 1 if they end at the number of classes; which is said, unless 0 is among them. Raises
    UserError, which names the line, for other labels.
    """
    index, count = {name: i for i, name in enumerate(classes)}, len(classes)
    numbers = {} if any(name.isdecimal() for name in classes) else {f"{i}": i for i in range(count + 1)}
    found = [index.get(label, numbers.get(label.lstrip("0") or "0") if label.isdecimal() else None) for label in labels]
    used = {i for label, i in zip(labels, found) if label not in index and i is not None}
    first = int(count in used and 0 not in used)
    for line, label, i in zip(lines, labels, found):
        if i is None or (label not in index and i - first == count):
            names = printable(", ".join(classes[:20])) + (", ..." if count > 20 else "")
            raise UserError(f"{table}, line {line}: unknown class {label[:80]!r}; the classes are {names}")
    if used and 0 not in used:
        warn(
            f"{table}: its numbers are taken to count classes from {first}, so that {min(used)} is "
            f"{printable(classes[min(used) - first])}; if that is wrong, write the names of the classes"
        )
    return [i if label in index else i - first for label, i in zip(labels, found)]


def base_name(name: str) -> str:
    """Return the last part of a file's name, whose folders may be separated as on Windows."""
    return PurePosixPath(name.replace("\\", "/")).name


def labelled_rows(table: Path, *choices: tuple[str, str], known: Iterable[str] = ()) -> Iterator[tuple[int, str, str]]:
    """Yield line number, file name and class of every row of a CSV file, separated and encoded as spreadsheets do.

    choices: pairs of column names for file name and class; the first pair present in the file counts. known: names of
        classes and files, which help to tell encodings apart. Raises UserError that names file and line.
    """
    text = _decoded(read_bytes(table, MAX_TABLE_BYTES, "give a CSV file of names and classes"), known)
    first, line_end, rest = text.partition("\n")
    if first[:4].lower() == "sep=":  # Excel's own line, which says how the others are separated.
        text = line_end + rest
    try:
        columns, delimiter = _columns(table, text.lstrip("\r\n"), choices)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        for row in itertools.islice(filter(None, reader), 1, None):  # Below the header.
            name, label = (row[i].strip() if i < len(row) else None for i in columns)
            if not name or label is None:
                raise UserError(f"{table}, line {reader.line_num}: a value is missing")
            yield reader.line_num, name, label
    except csv.Error as error:
        raise UserError(f"{table}: not a CSV file: {error}") from None


def _columns(table: Path, text: str, choices: Sequence[tuple[str, str]]) -> tuple[list[int], str]:
    """Return the positions of the columns in the header of a table, and what separates them."""
    start = text[:100_000].splitlines(keepends=True)
    headers = {mark: next(csv.reader(start, delimiter=mark, skipinitialspace=True), []) for mark in ",;\t|"}
    for fold in (str, str.casefold):
        for pair in choices:
            for delimiter, header in headers.items():
                names = [fold(name.strip()) for name in header]
                if all(fold(column) in names for column in pair):
                    return [names.index(fold(column)) for column in pair], delimiter
    present = max(headers.values(), key=len)
    missing = next((column for column in choices[0] if column not in present), choices[0][0])
    found = printable(", ".join(present)[:200]) or "none"
    raise UserError(f"{table}: no column {missing!r} (found: {found}); give the columns with --csv_columns")


def _decoded(content: bytes, known: Iterable[str]) -> str:
    """Return the text of a table: UTF-8, UTF-16 or, as spreadsheets for Windows write it, GBK or Latin-1."""
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), None)
    if encoding is None and b"\0" in content[:2]:
        encoding = "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
    with contextlib.suppress(UnicodeDecodeError):
        return content.decode(encoding or "utf-8")
    chinese = any(not name.isascii() and name.encode("gb18030", "replace") in content for name in known)
    with contextlib.suppress(UnicodeDecodeError):
        return content.decode("gb18030" if chinese else "cp1252")
    return content.decode("latin-1")


def _names_in(folder: Path) -> Iterator[str]:
    """Yield the names in a folder, if there is such a folder."""
    if os.path.isdir(folder):
        yield from os.listdir(folder)
