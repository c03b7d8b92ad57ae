"""Open folders of photographs, with labels from a CSV file if there is one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from src.cli.errors import UserError
from src.dataset.image_csv import base_name, class_indices, labelled_rows
from src.dataset.image_files import image_files, say_passed_over
from src.dataset.source import FileSource


def open_photographs(folder: str, labels: str | None, columns: tuple[str, str], classes: list[str]) -> FileSource:
    """Return the photographs of a folder, sorted by name. Raises UserError for an unusable folder or labels.

    labels: CSV file with a row for each photograph; without it all have label 0.
    columns: names of its columns with the file name and the class, which is a name or an index.
    """
    path = Path(folder)
    if not path.is_dir():
        raise UserError(f"{folder}: there is no such folder of images")
    passed_over: Counter[str] = Counter()
    files = image_files(path, passed_over)
    say_passed_over(path, passed_over)
    if not files:
        raise UserError(f"{folder}: no images in this folder")
    if labels is None:
        return FileSource(files, np.zeros(len(files), int), classes)
    of_name = _labels(Path(labels), columns, classes)
    missing = [file.name for file in files if base_name(file.name) not in of_name]
    if missing:
        raise UserError(f"{labels}: no row for {missing[0]}, one of {len(missing)} images without a label")
    return FileSource(files, np.array([of_name[base_name(file.name)] for file in files]), classes)


def _labels(table: Path, columns: tuple[str, str], classes: list[str]) -> dict[str, int]:
    """Return the class index of every file name in a CSV file."""
    rows = list(labelled_rows(table, columns, known=classes))
    indices = class_indices([label for *_, label in rows], classes, table, [line for line, *_ in rows])
    return {base_name(name): index for (_, name, _), index in zip(rows, indices)}
