"""CIFAR-10 in its binary layout: files of 10,000 records of one label byte and 3,072 pixel bytes, channels first."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from src.cli.errors import UserError
from src.dataset.cifar10 import CLASSES, MEAN, SPLITS, STD, check_labels, require_files
from src.dataset.download import Archive
from src.dataset.source import ArraySource

FOLDER, ZOO_TEST_FOLDER = "cifar-10-batches-bin", "cifar-10-verify-bin"
ARCHIVE = Archive(
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", 170052171, FOLDER
)
RECORDS, RECORD_BYTES = 10_000, 1 + 3072


def open_cifar10_binary(path: Path, split: str) -> ArraySource:
    """Open a split of the files in path/cifar-10-batches-bin. Raises UserError for damaged files.

    The model zoo's instructions put the test images into a folder of their own, path/cifar-10-verify-bin.
    """
    folder = path if path.name == FOLDER else path / FOLDER
    files = [folder / f"{name}.bin" for name in SPLITS[split]]
    moved = [folder.with_name(ZOO_TEST_FOLDER) / file.name for file in files]
    files = moved if split == "test" and not files[0].is_file() and moved[0].is_file() else files
    require_files(files, folder, ARCHIVE)
    records = np.concatenate([_read(file) for file in files])
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return ArraySource(images, records[:, 0], CLASSES, MEAN, STD)


def _read(file: Path) -> np.ndarray:
    """Return the records of a file, (RECORDS, RECORD_BYTES) uint8."""
    size = file.stat().st_size
    if size != RECORDS * RECORD_BYTES:
        raise UserError(
            f"{file}: {size} bytes instead of {RECORDS * RECORD_BYTES} ({RECORDS} records of {RECORD_BYTES}); fetch "
            "the data set again"
        )
    records = np.fromfile(file, np.uint8).reshape(RECORDS, RECORD_BYTES)
    check_labels(file, records[:, 0].tolist())
    return records
