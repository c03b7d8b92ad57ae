"""CIFAR-10 (Krizhevsky 2009) as pickled batches, read by mindvision; and what both layouts of it have in common."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Iterable

import numpy as np

from src.dataset.download import Archive
from src.dataset.source import ArraySource
from src.errors import UserError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Of the training images; the values that the MindSpore tutorial and most others use.
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
SPLITS = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
FOLDER = "cifar-10-batches-py"
ARCHIVE = Archive(
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", 170498071
)


def open_cifar10(path: Path, split: str) -> ArraySource:
    """Return a split of the batches in path/cifar-10-batches-py. Raises UserError for files that are not sound."""
    if path.name == FOLDER:
        path = path.parent
    folder = path / FOLDER
    require_files(folder, (*SPLITS[split], "batches.meta"), ARCHIVE)
    meta = read_trusted_pickle(folder / "batches.meta")
    known = isinstance(meta, dict) and isinstance(meta.get("num_cases_per_batch"), int)
    if not known or meta.get("label_names") != list(CLASSES):
        raise UserError(
            f"{folder / 'batches.meta'}: does not give the ten CIFAR-10 classes and the size of a batch; fetch the "
            "data set again"
        )
    for name in SPLITS[split]:
        check_batch(folder / name, meta["num_cases_per_batch"])

    from src.dataset.mindvision import read_cifar10  # Here, because it imports OpenCV, which nothing else needs.

    return ArraySource(*read_cifar10(path, split), CLASSES, MEAN, STD)


def require_files(folder: Path, names: tuple, archive: Archive) -> None:
    """Raise UserError, with the layout and where to get it, unless the folder holds all the files."""
    missing = [name for name in names if not (folder / name).is_file()]
    if missing and folder.is_dir():
        raise UserError(
            f"{folder}: CIFAR-10 is not complete (no {missing[0]}); remove this folder and fetch the data set again, "
            f"with --download, or from {archive.url}"
        )
    if missing:
        raise UserError(
            f"{folder}: CIFAR-10 is not there (no {missing[0]}); give --data_path the folder that holds "
            f"{folder.name}/, or fetch it with --download, or unpack {archive.url} there"
        )


def check_batch(file: Path, records: int | None) -> None:
    """Raise UserError unless a batch file holds `records` images and as many labels from 0 to 9.

    It is read without running anything in it, since mindvision unpickles whatever it finds.
    """
    batch = read_trusted_pickle(file)
    data, labels = (batch.get(key) if isinstance(batch, dict) else None for key in ("data", "labels"))
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise UserError(f"{file}: not a CIFAR-10 batch: no `data` of 3,072 bytes a row; fetch the data set again")
    if not isinstance(labels, list) or len(labels) != len(data) or len(data) != records:
        found = f"{len(data)} images, {len(labels) if isinstance(labels, list) else 'no'} labels"
        raise UserError(f"{file}: holds {found}; batches.meta says {records} of each; fetch the data set again")
    check_labels(file, labels)


def check_labels(file: Path, labels: Iterable) -> None:
    """Raise UserError that names the first label that is not a class."""
    for record, label in enumerate(labels):
        if not (isinstance(label, int) and 0 <= label < len(CLASSES)):
            raise UserError(f"{file}: record {record} has label {label!r}, not 0 to 9; fetch the data set again")


# What the official pickles import, and its names since numpy 2.
_ALLOWED_GLOBALS = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _TrustedUnpickler(pickle.Unpickler):
    """Unpickles arrays and plain values, and refuses to import anything else."""

    def find_class(self, module, name):
        try:
            return _ALLOWED_GLOBALS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def read_trusted_pickle(file: Path):
    """Return what a pickle of the official archive holds. Raises UserError for one that holds anything else."""
    try:
        with open(file, "rb") as stream:
            return _TrustedUnpickler(stream, encoding="latin1").load()
    except Exception as error:  # A broken pickle raises nearly anything.
        raise UserError(f"{file}: not a CIFAR-10 batch, or damaged ({error}); fetch the data set again") from None
