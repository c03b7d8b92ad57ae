"""Image folders in ImageNet's layout: train/<class>/*.jpg, val/<class>/*.jpg, and optionally test/<class>/*.jpg."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Iterable, Iterator

from src.cli.errors import UserError
from src.dataset.source import IMAGE_SUFFIXES, FileSource, printable


def open_image_folder(path: Path, split: str) -> FileSource:
    """Open the images of path/<split>. The classes are the folders in train/, in alphabetical order."""
    classes = class_folders(path / "train")
    present = class_folders(path / split)
    unknown = sorted(set(present) - set(classes))
    if unknown:
        folder = printable(path / split / unknown[0])
        raise UserError(f"{folder}: there is no such class in {path / 'train'}; remove the folder")
    files, labels = [], []
    for label, name in enumerate(classes):
        found = image_files(path / split / name) if name in present else []
        files += found
        labels += [label] * len(found)
    if not files:
        raise UserError(f"{path / split}: no images in its class folders (looked for {', '.join(IMAGE_SUFFIXES)})")
    warn_of_missing_classes(path / split, labels, classes)
    return FileSource(files, labels, classes)


def warn_of_missing_classes(folder: Path, labels: Iterable[int], classes: list[str]) -> None:
    """Warn on stderr of classes without images."""
    missing = without_images(labels, classes)
    if missing:
        print(f"warning: {folder}: no images of {missing}", file=sys.stderr, flush=True)


def without_images(labels: Iterable[int], classes: list[str]) -> str:
    """Return the number of classes without images and the names of the first ones, or an empty string."""
    present = set(labels)
    missing = [name for label, name in enumerate(classes) if label not in present]
    if not missing:
        return ""
    names = printable(", ".join(missing[:5])) + (", ..." if len(missing) > 5 else "")
    return f"{len(missing):,} of the {len(classes):,} classes ({names})"


def class_folders(folder: Path) -> list[str]:
    """Return the names of the class folders in a split. Raises UserError if there are none."""
    if not os.path.isdir(folder):  # Path.is_dir raises for a name that is too long.
        raise UserError(f"{folder}: no such folder; image data sets hold train/<class>/ and val/ under --data_path")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise UserError(f"{folder}: no class folders in it; image data sets hold {folder.name}/<class>/*.jpg")
    return names


def image_files(folder: Path) -> list[Path]:
    """Return all image files below a folder, sorted, without hidden ones."""
    return sorted(map(Path, _image_files(folder)))


def _image_files(folder: str | Path) -> Iterator[str]:
    with os.scandir(folder) as entries:  # It tells files from folders without asking for each, as Path.rglob does.
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _image_files(entry.path)
            elif entry.name.lower().endswith(IMAGE_SUFFIXES) and not entry.name.startswith("."):
                with contextlib.suppress(OSError):  # A link that leads to itself.
                    if entry.is_file():
                        yield entry.path
