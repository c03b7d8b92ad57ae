"""Image folders in ImageNet's layout: train/<class>/*.jpg, val/<class>/*.jpg, and optionally test/<class>/*.jpg.

Or class folders alone, <class>/*.jpg, which are all for training unless val_split sets some images aside.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Iterable

from src.cli.errors import UserError
from src.cli.patience import announced
from src.cli.terminal import warn
from src.dataset.image_files import image_files, is_hidden
from src.dataset.source import IMAGE_SUFFIXES, FileSource, printable

# Usual names of a split's folder, in any case; the split's own name is preferred.
SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


def open_image_folder(path: Path, split: str) -> FileSource:
    """Open the images of a split. The classes are the folders in train/, in alphabetical order.

    Without train/, they are those of the split, so that a network can be evaluated on it.
    """
    train = path if is_flat(path) else split_folder(path, "train")
    folder = train if split == "train" else split_folder(path, split)
    passed_over: Counter[str] = Counter()
    classes = class_folders(train if os.path.isdir(train) or not os.path.isdir(folder) else folder)
    present = class_folders(folder, passed_over)
    unknown = sorted(set(present) - set(classes))
    if unknown:
        raise UserError(
            f"{printable(folder / unknown[0])}: there is no such class in {train}; add it there, or move this folder "
            "away"
        )
    files, labels, present = [], [], set(present)
    for label, name in enumerate(announced(classes, f"{folder}: class folders")):
        found = image_files(folder / name, passed_over) if name in present else []
        files += found
        labels += [label] * len(found)
    if not files:
        raise UserError(f"{folder}: no images in its class folders (looked for {', '.join(IMAGE_SUFFIXES)})")
    warn_of_missing_classes(folder, labels, classes)
    return FileSource(files, labels, classes, passed_over)


def split_folder(path: Path, split: str) -> Path:
    """Return the folder of a split: path/<split>, or the one with another of its usual names.

    Raises UserError if several folders have such names.
    """
    if os.path.isdir(path / split) or not os.path.isdir(path):  # Path.is_dir raises for a name that is too long.
        return path / split
    found = sorted(e.name for e in os.scandir(path) if e.name.lower() in SPLIT_NAMES[split] and e.is_dir())
    if len(found) > 1:
        raise UserError(
            f"{path}: {found[0]}/ and {found[1]}/ may both be the {split} images; call one of them {split}/"
        )
    return path / (found or [split])[0]


def is_flat(path: Path) -> bool:
    """Return whether class folders with images lie in `path` itself, without train/, val/ and test/."""
    if not os.path.isdir(path) or any(os.path.isdir(split_folder(path, split)) for split in SPLIT_NAMES):
        return False
    return any(_has_images(entry.path) for entry in os.scandir(path) if entry.is_dir() and not is_hidden(entry.name))


def _has_images(folder: str) -> bool:
    with os.scandir(folder) as entries:
        images = (e for e in entries if e.name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(e.name))
        return any(os.path.isfile(e.path) for e in images)


def warn_of_missing_classes(folder: Path, labels: Iterable[int], classes: list[str]) -> None:
    """Warn on stderr of classes without images."""
    missing = without_images(labels, classes)
    if missing:
        warn(f"{folder}: no images of {missing}")


def without_images(labels: Iterable[int], classes: list[str]) -> str:
    """Return the number of classes without images and the names of the first ones, or an empty string."""
    present = set(labels)
    missing = [name for label, name in enumerate(classes) if label not in present]
    if not missing:
        return ""
    names = printable(", ".join(missing[:5])) + (", ..." if len(missing) > 5 else "")
    return f"{len(missing):,} of the {len(classes):,} classes ({names})"


def class_folders(folder: Path, passed_over: Counter[str] | None = None) -> list[str]:
    """Return the names of the class folders in a split. Raises UserError if there are none.

    passed_over: counts what else lies in it.
    """
    if not os.path.isdir(folder):
        raise UserError(
            f"{folder}: no such folder; image data sets hold train/<class>/ and val/ under --data_path, or <class>/ "
            "alone (images of unknown classes are for infer.py)"
        )
    names, others = [], Counter() if passed_over is None else passed_over
    for entry in os.scandir(folder):
        if is_hidden(entry.name):
            others["hidden"] += 1
        elif entry.is_dir():
            names.append(entry.name)
        else:
            others["outside of the class folders"] += 1
    if not names:
        raise UserError(f"{folder}: no class folders in it; image data sets hold {folder.name}/<class>/*.jpg")
    return sorted(names)
