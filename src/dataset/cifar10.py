"""CIFAR-10 (Krizhevsky 2009) as pickled batches, read by mindvision, and the checks common to both of its layouts."""

from __future__ import annotations

import io
import os
import pickle
import reprlib
from pathlib import Path
from typing import Any, Iterable

import numpy as np

from src.cli.errors import UserError, first_line
from src.dataset.download import Archive
from src.dataset.source import ArraySource, printable
from src.files import pickles
from src.files.bounded import read_bytes

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Of the training images; the values that the MindSpore tutorial and most others use.
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
SPLITS = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
FOLDER = "cifar-10-batches-py"
ARCHIVE = Archive(
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", 170498071, FOLDER
)


def open_cifar10(path: Path, split: str) -> ArraySource:
    """Open a split of the batches in path/cifar-10-batches-py. Raises UserError for damaged files."""
    if path.name == FOLDER:
        path = path.parent
    folder = path / FOLDER
    require_files(folder, (*SPLITS[split], "batches.meta"), ARCHIVE)
    meta = read_trusted_pickle(folder / "batches.meta")
    records = meta.get("num_cases_per_batch") if isinstance(meta, dict) else None
    if not isinstance(records, int) or records < 1 or meta.get("label_names") != list(CLASSES):
        raise UserError(
            f"{folder / 'batches.meta'}: does not give the ten CIFAR-10 classes and the size of a batch; fetch the "
            "data set again"
        )
    for name in SPLITS[split]:
        check_batch(folder / name, records)

    from src.dataset.mindvision import read_cifar10  # Here, because it imports OpenCV, which nothing else needs.

    return ArraySource(*read_cifar10(path, split), CLASSES, MEAN, STD)


def require_files(folder: Path, names: tuple, archive: Archive) -> None:
    """Raise UserError, with the expected layout and the archive's address, unless all files are in the folder."""
    missing = [name for name in names if not os.path.isfile(folder / name)]  # Path.is_file raises for a long name.
    if missing and os.path.isdir(folder):
        raise UserError(
            f"{folder}: CIFAR-10 is incomplete (no {missing[0]}); remove this folder and fetch the data set again, "
            f"with --download, or from {archive.url}"
        )
    if missing:
        raise UserError(
            f"{folder}: CIFAR-10 not found (no {missing[0]}); give --data_path the folder that holds "
            f"{folder.name}/, or fetch it with --download, or unpack {archive.url} there"
        )


def check_batch(file: Path, records: int | None) -> None:
    """Raise UserError unless a batch file holds `records` images and as many labels from 0 to 9.

    The file is read without executing code, since mindvision unpickles anything.
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
    """Raise UserError that names the first label outside 0 to 9."""
    for record, label in enumerate(labels):
        if not (isinstance(label, int) and 0 <= label < len(CLASSES)):
            shown = _brief.repr(label)
            raise UserError(f"{file}: record {record} has label {shown}, not 0 to 9; fetch the data set again")


# Short, however large or deep a value is.
_brief = reprlib.Repr()
_brief.maxlevel = 2


# An official batch has 31,035,704 bytes and about 40,000 opcodes, an array and its type among them.
MAX_PICKLE_BYTES, MAX_OPCODES, MAX_OBJECTS = 32 << 20, 200_000, 2
_NDARRAY = object()


class _Dtype:
    """Stand-in for numpy.dtype, for uint8 only."""

    def __init__(self, *arguments):
        if arguments not in (("u1", 0, 1), ("|u1", 0, 1)):
            raise pickle.UnpicklingError("its array is not of bytes, 3,072 a row")

    def __setstate__(self, state):
        if state != (3, "|", None, None, None, -1, -1, 0):
            raise pickle.UnpicklingError("the type of its array is not that of bytes")


class _Array:
    """Stand-in for numpy's _reconstruct and the array that this returns, so that none of numpy's code runs.

    array: its value, once built.
    """

    def __init__(self, kind, shape, code):
        if kind is not _NDARRAY or shape != (0,) or code not in ("b", b"b"):
            raise pickle.UnpicklingError("its array is made in another way")
        self.array: np.ndarray | None = None

    def __setstate__(self, state):
        version, shape, dtype, fortran_order, content = state
        content = content.encode("latin1") if isinstance(content, str) else content
        plain = version == 1 and isinstance(dtype, _Dtype) and fortran_order is False and isinstance(content, bytes)
        if not plain or not all(type(side) is int and side >= 0 for side in shape):
            raise pickle.UnpicklingError("its array is made in another way")
        self.array = np.frombuffer(content, np.uint8).reshape(shape)


# Imports of the official pickles, and their names since numpy 2.
_STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Dtype,
}
_ALLOWED = pickles.Allowed(_STAND_INS, pickles.PLAIN_OPCODES, MAX_OPCODES, MAX_OBJECTS)


def read_trusted_pickle(file: Path) -> Any:
    """Read a pickle of the official archive without executing code.

    Raises UserError for any other pickle, before much more memory than the file's size is used.
    """
    content = read_bytes(file, MAX_PICKLE_BYTES, "fetch the data set again")
    try:
        value = pickles.load(io.BytesIO(content), _ALLOWED)
    except Exception as error:  # A broken pickle raises nearly anything.
        reason = printable(first_line(error))
        raise UserError(f"{file}: not a CIFAR-10 batch, or damaged ({reason}); fetch the data set again") from None
    if isinstance(value, dict):
        value = {key: entry.array if isinstance(entry, _Array) else entry for key, entry in value.items()}
    return value
