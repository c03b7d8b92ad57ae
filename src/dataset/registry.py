"""Registry of the data sets.

A new data set is a module with a function that opens a split, and a row of DATASETS.
"""

from __future__ import annotations

from typing import Callable, NamedTuple, Optional

from src.dataset import cifar10, cifar10_binary
from src.dataset.cifar10 import open_cifar10
from src.dataset.cifar10_binary import open_cifar10_binary
from src.dataset.digits import open_digits
from src.dataset.download import Archive
from src.dataset.image_csv import open_image_csv
from src.dataset.image_folder import open_image_folder
from src.dataset.imagenet import open_imagenet
from src.dataset.mindrecord import open_mindrecord
from src.dataset.source import Source


class Kind(NamedTuple):
    """A kind of data set.

    open: (path, split, **keys) -> Source.
    folders: its possible splits, each a folder; empty for a data set with training and test images.
    flat: whether class folders may lie in the data set's folder itself, all of them training images.
    keys: further keyword arguments of `open`, which are keys of the configuration.
    archive: its download.
    """

    open: Callable[..., Source]
    folders: tuple[str, ...] = ()
    flat: bool = False
    keys: tuple[str, ...] = ()
    archive: Optional[Archive] = None


DATASETS = {
    "cifar10": Kind(open_cifar10, archive=cifar10.ARCHIVE),
    "cifar10_binary": Kind(open_cifar10_binary, archive=cifar10_binary.ARCHIVE),
    "image_folder": Kind(open_image_folder, ("train", "val", "test"), flat=True),
    "image_csv": Kind(open_image_csv, ("train", "val"), keys=("csv_columns",)),
    "imagenet": Kind(open_imagenet, ("train", "val"), keys=("val_labels", "csv_columns")),
    "mindrecord": Kind(open_mindrecord, ("train", "val", "test")),
    "digits": Kind(open_digits),
}
# Data sets that may come with validation images.
OWN_VALIDATION = tuple(name for name, kind in DATASETS.items() if kind.folders)
