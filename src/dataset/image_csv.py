"""Class folders for training, and a CSV file that labels the validation images: train/<class>/*, val/*, val.csv."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Iterator, Sequence

from src.cli.errors import UserError
from src.dataset.image_folder import class_folders, open_image_folder
from src.dataset.source import FileSource, printable
from src.files.bounded import open_file


def open_image_csv(path: Path, split: str, csv_columns: Sequence[str]) -> FileSource:
    """Open a split. `csv_columns` are the columns of val.csv with the file name and the class.

    A file name is relative to val/; a class is a folder's name in train/, or its index among them.
    """
    if split == "train":
        return open_image_folder(path, "train")
    classes = class_folders(path / "train")
    table = path / f"{split}.csv"
    files, labels = [], []
    for line, name, label in labelled_rows(table, tuple(csv_columns)):
        file = path / split / name
        if not os.path.isfile(file):  # Path.is_file raises for a name that is too long.
            raise UserError(f"{table}, line {line}: there is no file {printable(file)[:1000]}")
        files.append(file)
        labels.append(_class_index(label, classes, f"{table}, line {line}"))
    if not files:
        raise UserError(f"{table}: no rows below the header; give it one for every image in {path / split}")
    return FileSource(files, labels, classes)


def labelled_rows(table: Path, *choices: tuple[str, str]) -> Iterator[tuple[int, str, str]]:
    """Yield line number, file name and class of every row of a CSV file.

    choices: pairs of column names for file name and class; the first pair present in the file counts. Raises UserError
        that names file and line.
    """
    try:
        with io.TextIOWrapper(open_file(table), newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            present = reader.fieldnames or ()
            columns = next((pair for pair in choices if set(pair) <= set(present)), choices[0])
            for column in columns:
                if column not in present:
                    found = printable(", ".join(present)[:200]) or "none"
                    raise UserError(
                        f"{table}: no column {column!r} (found: {found}); give the columns with --csv_columns"
                    )
            for row in reader:
                name, label = (row[column] for column in columns)
                if not name or label is None:
                    raise UserError(f"{table}, line {reader.line_num}: a value is missing")
                yield reader.line_num, name.strip(), label.strip()
    except OSError as error:
        raise UserError(f"{table}: cannot read the labels: {error.strerror}") from None
    except (csv.Error, UnicodeError) as error:
        raise UserError(f"{table}: not a CSV file in UTF-8: {error}") from None


def _class_index(label: str, classes: list[str], where: str) -> int:
    if label in classes:
        return classes.index(label)
    names_are_numbers = any(name.isdecimal() for name in classes)
    is_index = label.isdecimal() and len(label) < 10  # Python reads no number of more than 4,300 digits.
    if is_index and int(label) < len(classes) and not names_are_numbers:
        return int(label)
    raise UserError(f"{where}: unknown class {label[:80]!r}; the classes are {printable(', '.join(classes[:20]))}")
