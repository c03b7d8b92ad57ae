"""Open folders of photographs, with labels from a CSV file if there is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from src.cli.errors import UserError
from src.dataset.image_csv import labelled_rows
from src.dataset.image_folder import image_files
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
    files = image_files(path)
    if not files:
        raise UserError(f"{folder}: no images in this folder")
    if labels is None:
        return Photographs(files, None, classes)
    of_name = _labels(Path(labels), columns, classes)
    missing = [file.name for file in files if file.name not in of_name]
    if missing:
        raise UserError(f"{labels}: no row for {missing[0]}, one of {len(missing)} images without a label")
    return Photographs(files, np.array([of_name[file.name] for file in files]), classes)


def _labels(table: Path, columns: tuple[str, str], classes: list[str]) -> dict[str, int]:
    """Return the class index of every file name in a CSV file."""
    labels = {}
    for line, name, label in labelled_rows(table, columns):
        if label in classes:
            labels[name] = classes.index(label)
        elif label.isdecimal() and int(label) < len(classes):
            labels[name] = int(label)
        else:
            raise UserError(f"{table}, line {line}: {label!r} is not one of the {len(classes)} classes")
    return labels
