"""CIFAR-10 (Krizhevsky 2009) as pickled batches, read by mindvision, and the checks common to both of its layouts."""

from __future__ import annotations

import io
import os
import pickle
import reprlib
from pathlib import Path
from typing import Any, Iterable, NamedTuple

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
LAYOUTS = {FOLDER: "cifar10", "cifar-10-batches-bin": "cifar10_binary"}  # Data sets by the folder of their files.
ARCHIVE = Archive(
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", 170498071, FOLDER
)


def open_cifar10(path: Path, split: str) -> ArraySource:
    """Open a split of the batches in path/cifar-10-batches-py. Raises UserError for damaged files.

    mindvision reads the official batches. Those that Python 3 has pickled again are read here, since their names may be
    bytes, which mindvision does not find.
    """
    if path.name == FOLDER:
        path = path.parent
    folder = path / FOLDER
    require_files([folder / name for name in (*SPLITS[split], "batches.meta")], folder, ARCHIVE)
    meta, _ = read_trusted_pickle(folder / "batches.meta")
    records = meta.get("num_cases_per_batch") if isinstance(meta, dict) else None
    if not isinstance(records, int) or records < 1 or _names(meta.get("label_names")) != CLASSES:
        raise UserError(
            f"{folder / 'batches.meta'}: does not give the ten CIFAR-10 classes and the size of a batch; fetch the "
            "data set again"
        )
    batches = [read_batch(folder / name, records) for name in SPLITS[split]]
    if not all(batch.official for batch in batches):
        images = np.concatenate([batch.images for batch in batches]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return ArraySource(images, np.concatenate([batch.labels for batch in batches]), CLASSES, MEAN, STD)

    from src.dataset.mindvision import read_cifar10  # Here, because it imports OpenCV, which nothing else needs.

    return ArraySource(*read_cifar10(path, split), CLASSES, MEAN, STD)


def require_files(files: list[Path], folder: Path, archive: Archive) -> None:
    """Raise UserError, with the expected layout and the archive's address, unless all files are there."""
    missing = [file.name for file in files if not os.path.isfile(file)]  # Path.is_file raises for a long name.
    if not missing:
        return
    present = next((name for name in LAYOUTS if name != folder.name and (folder.parent / name).is_dir()), None)
    if present:
        advice = f"{folder.parent} has {present}/: give --dataset {LAYOUTS[present]}"
    elif os.path.isdir(folder):
        advice = (
            f"add what is missing, or call this folder by another name and fetch the data set again, with --download, "
            f"or from {archive.url}"
        )
    else:
        advice = (
            f"give --data_path the folder that holds {folder.name}/, or fetch it with --download, or unpack "
            f"{archive.url} there"
        )
    state = "is incomplete" if os.path.isdir(folder) else "not found"
    raise UserError(f"{folder}: CIFAR-10 {state} (no {missing[0]}); {advice}")


class Batch(NamedTuple):
    """A batch file: images (N, 3072) uint8, their labels, and whether it is pickled as the official ones are."""

    images: np.ndarray
    labels: list[int]
    official: bool


def read_batch(file: Path, records: int) -> Batch:
    """Return the content of a batch file, which is read without executing code: mindvision unpickles anything.

    Raises UserError unless there are `records` images and as many labels from 0 to 9.
    """
    batch, official = read_trusted_pickle(file)
    data, labels = (batch.get(key) if isinstance(batch, dict) else None for key in ("data", "labels"))
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise UserError(f"{file}: not a CIFAR-10 batch: no `data` of 3,072 bytes a row; fetch the data set again")
    if not isinstance(labels, list) or len(labels) != len(data) or len(data) != records:
        found = f"{len(data)} images, {len(labels) if isinstance(labels, list) else 'no'} labels"
        raise UserError(f"{file}: holds {found}; batches.meta says {records} of each; fetch the data set again")
    check_labels(file, labels)
    return Batch(data, labels, official)


def _names(values: Any) -> tuple:
    return tuple(map(_plain, values)) if isinstance(values, list) else ()


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
        if kind is not _NDARRAY or shape != (0,) or _plain(code) != "b":
            raise pickle.UnpicklingError("its array is made in another way")
        self.array: np.ndarray | None = None

    def __setstate__(self, state):
        version, shape, dtype, fortran_order, content = state
        content = content.text if isinstance(content, _Encoded) else content
        content = content.encode("latin1") if isinstance(content, str) else content
        of_bytes = isinstance(dtype, _Dtype) and isinstance(content, (bytes, bytearray))
        plain = version == 1 and of_bytes and fortran_order is False
        if not plain or not all(type(side) is int and side >= 0 for side in shape):
            raise pickle.UnpicklingError("its array is made in another way")
        self.array = np.frombuffer(content, np.uint8).reshape(shape)


class _FromBuffer(_Array):
    """Stand-in for numpy's _frombuffer, which makes the arrays of protocol 5."""

    def __init__(self, content, dtype, shape, order):
        self.__setstate__((1, shape, dtype, order != "C", content))


class _Encoded:
    """Stand-in for bytes in protocol 2 of Python 3: a text to be encoded.

    That is left to those who need the bytes, as a pickle could have a long text encoded ten thousand times.
    """

    def __init__(self, text, encoding):
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError("it encodes something else")
        self.text = text

    def __setstate__(self, state):
        raise pickle.UnpicklingError("it changes a text")


# Imports of the official pickles, and their names since numpy 2.
_STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Dtype,
}
_OFFICIAL = pickles.Allowed(_STAND_INS, pickles.PLAIN_OPCODES, MAX_OPCODES, MAX_OBJECTS)
# What Python 3 writes in any of its protocols.
_REPICKLED = pickles.Allowed(
    {
        **_STAND_INS,
        ("numpy.core.numeric", "_frombuffer"): _FromBuffer,
        ("numpy._core.numeric", "_frombuffer"): _FromBuffer,
        ("_codecs", "encode"): _Encoded,
    },
    f"{pickles.PLAIN_OPCODES}|FRAME|MEMOIZE|STACK_GLOBAL|SHORT_BINUNICODE|BIN(UNICODE|BYTES)8|BYTEARRAY8",
    MAX_OPCODES,
    MAX_OBJECTS,
)


def read_trusted_pickle(file: Path) -> tuple[Any, bool]:
    """Read a pickle of the archive without executing code, and return whether it is as Python 2 has written it.

    Raises UserError for any other pickle, before much more memory than the file's size is used.
    """
    content = read_bytes(file, MAX_PICKLE_BYTES, "fetch the data set again")
    for allowed in (_OFFICIAL, _REPICKLED):
        try:
            value = pickles.load(io.BytesIO(content), allowed)
            break
        except Exception as error:  # A broken pickle raises nearly anything.
            reason = printable(first_line(error))
    else:
        raise UserError(f"{file}: not a CIFAR-10 batch, or damaged ({reason}); fetch the data set again")
    official = allowed is _OFFICIAL
    if isinstance(value, dict):
        plain = {_plain(key): _plain(entry) for key, entry in value.items()}
        official, value = official and plain.keys() == value.keys(), plain
    return value, official


def _plain(value: Any) -> Any:
    """Return the array of a stand-in, and bytes as text."""
    value = value.array if isinstance(value, _Array) else value.text if isinstance(value, _Encoded) else value
    return value.decode("latin1") if isinstance(value, bytes) else value
