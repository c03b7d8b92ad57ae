"""CIFAR-10 in its binary layout: files of 10,000 records of one label byte and 3,072 pixel bytes, channels first."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from src.cli.errors import UserError
from src.dataset.cifar10 import CLASSES, MEAN, SPLITS, STD, check_labels, require_files
from src.dataset.download import Archive
from src.dataset.source import ArraySource

FOLDER = "cifar-10-batches-bin"
ARCHIVE = Archive(
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", 170052171, FOLDER
)
RECORDS, RECORD_BYTES = 10_000, 1 + 3072


def open_cifar10_binary(path: Path, split: str) -> ArraySource:
    """Open a split of the files in path/cifar-10-batches-bin. Raises UserError for damaged files."""
    folder = path if path.name == FOLDER else path / FOLDER
    names = tuple(f"{name}.bin" for name in SPLITS[split])
    require_files(folder, names, ARCHIVE)
    for name in names:
        size = (folder / name).stat().st_size
        if size != RECORDS * RECORD_BYTES:
            raise UserError(
                f"{folder / name}: {size} bytes instead of {RECORDS * RECORD_BYTES} ({RECORDS} records of "
                f"{RECORD_BYTES}); fetch the data set again"
            )
    files = [np.fromfile(folder / name, np.uint8).reshape(RECORDS, RECORD_BYTES) for name in names]
    for name, records in zip(names, files):
        check_labels(folder / name, records[:, 0].tolist())
    records = np.concatenate(files)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return ArraySource(images, records[:, 0], CLASSES, MEAN, STD)
