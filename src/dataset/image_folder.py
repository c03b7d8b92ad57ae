"""Image folders in ImageNet's layout: train/<class>/*.jpg, val/<class>/*.jpg, and test/ likewise if there is one."""

from __future__ import annotations

import os
from pathlib import Path

from src.dataset.source import IMAGE_SUFFIXES, FileSource, printable
from src.errors import UserError


def open_image_folder(path: Path, split: str) -> FileSource:
    """Return the images of path/<split>. The classes are the folders in train/, in alphabetical order."""
    classes = class_folders(path / "train")
    present = class_folders(path / split)
    unknown = sorted(set(present) - set(classes))
    if unknown:
        folder = printable(path / split / unknown[0])
        raise UserError(f"{folder}: there is no such class in {path / 'train'}; remove the folder")
    files, labels = [], []
    for label, name in enumerate(classes):
        found = image_files(path / split / name)
        files += found
        labels += [label] * len(found)
    if not files:
        raise UserError(f"{path / split}: no images in its class folders (looked for {', '.join(IMAGE_SUFFIXES)})")
    return FileSource(files, labels, classes)


def class_folders(folder: Path) -> list[str]:
    """Return the names of the class folders in a split. Raises UserError when there are none."""
    if not os.path.isdir(folder):  # Path.is_dir raises for a name that is too long.
        raise UserError(f"{folder}: no such folder; image data sets hold train/<class>/ and val/ under --data_path")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise UserError(f"{folder}: no class folders in it; image data sets hold {folder.name}/<class>/*.jpg")
    return names


def image_files(folder: Path) -> list[Path]:
    """Return the image files anywhere below a folder, sorted, hidden ones left out."""
    found = (file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    return sorted(file for file in found if not file.name.startswith("."))
