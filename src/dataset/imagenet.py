"""ImageNet (ILSVRC 2012) as distributed: train/<WordNet id>/*.JPEG, and val/ likewise or as one flat folder.

The labels of a flat val/ are in one of these files:

- val.csv, or any CSV file, with a column of file names and one of WordNet ids, class names or indices;
- Kaggle's LOC_val_solution.csv, columns ImageId and PredictionString: the WordNet id, then boxes;
- ILSVRC2012_validation_ground_truth.txt of the official development kit, one number per line. The numbers follow
  neither alphabetical order nor that of the logits; meta.mat in the same folder of the kit maps them to WordNet ids.
"""

from __future__ import annotations

import io
import os
import re
from collections import Counter
from pathlib import Path
from typing import Sequence

from src.cli.errors import UserError, first_line
from src.cli.patience import announced
from src.dataset.image_csv import base_name, labelled_rows
from src.dataset.image_files import image_files, is_hidden
from src.dataset.image_folder import class_folders, split_folder, warn_of_missing_classes, without_images
from src.dataset.imagenet_classes import imagenet_classes
from src.dataset.source import FileSource, printable
from src.files.bounded import read_bytes

GROUND_TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
KAGGLE_COLUMNS = ("ImageId", "PredictionString")
# Where the labels are looked for, below the data set's folder.
LABEL_FILES = ("val.csv", "LOC_val_solution.csv", GROUND_TRUTH, f"ILSVRC2012_devkit_t12/data/{GROUND_TRUTH}")
# Limit for the official files, to save memory.
MAX_LABEL_BYTES = 16 << 20
_LABELS_ADVICE = (
    f"{GROUND_TRUTH} and {META} of the development kit belong in one folder, or give a CSV file: --val_labels"
)
_OFFICIAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


def open_imagenet(path: Path, split: str, val_labels: str | None, csv_columns: Sequence[str]) -> FileSource:
    """Open path/train or path/val with the 1,000 classes in the order of the published logits.

    val_labels: the file with the labels of a flat val/, or None to search for it; `csv_columns`: see open_image_csv.
    Raises UserError for folders that are not ImageNet classes, classes without training images, and invalid labels.
    """
    folder, passed_over = split_folder(path, split), Counter()
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder; ImageNet is train/<WordNet id>/*.JPEG and val/ under --data_path")
    classes = imagenet_classes()
    names, index = [known.name for known in classes], {known.wnid: i for i, known in enumerate(classes)}
    if split == "val" and (
        val_labels or not any(entry.is_dir() and not is_hidden(entry.name) for entry in os.scandir(folder))
    ):
        table = Path(val_labels) if val_labels else _label_file(path)
        labelled = _flat(image_files(folder, passed_over), folder, table, tuple(csv_columns), index, names)
    else:
        labelled = _in_class_folders(folder, index, passed_over)
    if not labelled:
        raise UserError(f"{folder}: no images in it")
    labels = [label for _, label in labelled]
    missing = without_images(labels, [f"{known.wnid} {known.name}" for known in classes])
    if missing and split == "train":
        raise UserError(
            f"{folder}: no images of {missing}; complete the data set, or train on what is there with "
            "--dataset image_folder"
        )
    warn_of_missing_classes(folder, labels, names)
    return FileSource((file for file, _ in labelled), labels, names, passed_over)


def _in_class_folders(folder: Path, index: dict[str, int], passed_over: Counter[str]) -> list[tuple[str, int]]:
    present = class_folders(folder, passed_over)
    unknown = [name for name in present if name not in index]
    if unknown:
        more = f", nor are {len(unknown) - 1:,} other folders" if len(unknown) > 1 else ""
        raise UserError(
            f"{printable(folder / unknown[0])}: is not one of the 1,000 WordNet ids, such as {next(iter(index))}{more}"
            "; move it away, or give --dataset image_folder for classes of your own"
        )
    # Texts, as a million paths would take half a gigabyte meanwhile.
    return [
        (os.fspath(file), index[name])
        for name in announced(present, f"{folder}: class folders")
        for file in image_files(folder / name, passed_over)
    ]


def _label_file(path: Path) -> Path:
    for name in LABEL_FILES:
        if os.path.isfile(path / name):
            return path / name
    raise UserError(
        f"{path / 'val'}: contains no class folders, and there is no file of labels (looked for "
        f"{', '.join(LABEL_FILES)}); give the file with --val_labels"
    )


def _flat(
    found: list[Path], folder: Path, table: Path, columns: tuple[str, str], index: dict[str, int], names: list[str]
) -> list[tuple[Path, int]]:
    """Return the images found in a flat folder with their labels from a file."""
    files = {file.name: file for file in found}
    if table.suffix.lower() == ".txt":
        return _ground_truth(files, table, index)
    # A class that is called by a number is meant by its index.
    known = {**{name: i for i, name in enumerate(names)}, **index, **{str(i): i for i in range(len(names))}}
    labelled = []
    for line, name, label in announced(labelled_rows(table, columns, KAGGLE_COLUMNS), f"{table}: rows"):
        file = files.get(name) or files.get(base_name(name)) or files.get(f"{name}.JPEG")
        if file is None:
            raise UserError(f"{table}, line {line}: there is no file {printable(folder / name)[:1000]}")
        label = label if label in known else label.split(" ")[0]  # Behind Kaggle's ids are boxes.
        if label not in known:
            raise UserError(
                f"{table}, line {line}: {label[:80]!r} is not the WordNet id, name or index of an ImageNet class"
            )
        labelled.append((file, known[label]))
    return labelled


def _ground_truth(files: dict[str, Path], table: Path, index: dict[str, int]) -> list[tuple[Path, int]]:
    """Return the images with the labels of the official text file, whose line n is for ILSVRC2012_val_<n>.JPEG."""
    numbers = read_bytes(table, MAX_LABEL_BYTES, _LABELS_ADVICE).split()
    wnid_of = _read_meta(table.with_name(META))
    labelled = []
    for name, file in files.items():
        official = _OFFICIAL_NAME.fullmatch(name)
        if not official:
            raise UserError(f"{printable(file)}: not an official name, such as ILSVRC2012_val_00000001.JPEG; remove it")
        line = int(official[1])
        if not 1 <= line <= len(numbers):
            raise UserError(f"{table}: has {len(numbers):,} lines, but none for {name}; use the official file")
        wnid = wnid_of.get(numbers[line - 1].decode("ascii", "replace"))
        if wnid not in index:
            raise UserError(f"{table}, line {line}: {numbers[line - 1][:80]!r} is not a class number from 1 to 1000")
        labelled.append((file, index[wnid]))
    return labelled


def _read_meta(meta: Path) -> dict[str, str]:
    """Return the WordNet id of each class number in the meta.mat of the development kit."""
    from scipy.io import loadmat  # Slow to import, and seldom needed.

    content = io.BytesIO(read_bytes(meta, MAX_LABEL_BYTES, _LABELS_ADVICE))
    try:
        synsets = loadmat(content, squeeze_me=True, variable_names=["synsets"])["synsets"]
        return {str(int(number)): str(wnid) for number, wnid in zip(synsets["ILSVRC2012_ID"], synsets["WNID"])}
    except Exception as error:  # A damaged file raises nearly anything.
        reason = printable(first_line(error))
        raise UserError(f"{meta}: not the meta.mat of the ILSVRC 2012 development kit ({reason})") from None
