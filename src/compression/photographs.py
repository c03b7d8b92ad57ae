"""Open folders of photographs, with labels from a CSV file if there is one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from src.cli.errors import UserError
from src.dataset.image_csv import base_name, class_indices, labelled_rows
from src.dataset.image_files import image_files, say_passed_over
from src.dataset.source import FileSource

# Label of an unlabelled photograph, which counts for agreement and not for accuracy.
NO_LABEL = 0


class Photographs(FileSource):
    """Image files sorted by name.

    has_labels: whether `labels` come from a CSV file; otherwise all are NO_LABEL.
    """

    def __init__(self, files: list[Path], labels: np.ndarray | None, classes: list[str]):
        self.has_labels = labels is not None
        super().__init__(files, np.full(len(files), NO_LABEL) if labels is None else labels, classes)


def open_photographs(folder: str, labels: str | None, columns: tuple[str, str], classes: list[str]) -> Photographs:
    """Return the photographs of a folder. Raises UserError for an unusable folder or labels.

    labels: CSV file with a row for each photograph. columns: names of its columns with the file name and the class (its
    name or index).
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
        return Photographs(files, None, classes)
    of_name = _labels(Path(labels), columns, classes)
    missing = [file.name for file in files if base_name(file.name) not in of_name]
    if missing:
        raise UserError(f"{labels}: no row for {missing[0]}, one of {len(missing)} images without a label")
    return Photographs(files, np.array([of_name[base_name(file.name)] for file in files]), classes)


def _labels(table: Path, columns: tuple[str, str], classes: list[str]) -> dict[str, int]:
    """Return the class index of every file name in a CSV file."""
    rows = list(labelled_rows(table, columns, known=classes))
    indices = class_indices([label for *_, label in rows], classes, table, [line for line, *_ in rows])
    return {base_name(name): index for (_, name, _), index in zip(rows, indices)}
