"""Open and check the splits of a data set."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from src.cli.errors import UserError
from src.dataset.download import download, unpacked
from src.dataset.options import DataSourceConfig
from src.dataset.registry import DATASETS
from src.dataset.source import Source, Subset, split_by_class


def splits(config: DataSourceConfig) -> tuple[str, ...]:
    """Return the splits that a data set has, of "train", "val" and "test"."""
    kind = DATASETS[config.dataset]
    if kind.folders:
        path = _path(config)
        return tuple(name for name in kind.folders if os.path.isdir(path / name))
    return ("train", "val", "test") if _val_split(config) else ("train", "test")


def open_source(config: DataSourceConfig, split: str) -> Source:
    """Open the images of a split: "train", "val" or "test".

    `val` is the data set's own validation split, or the fraction `val_split` of the training images, then left out of
    `train`. Raises UserError for missing or damaged data.
    """
    kind, path = DATASETS[config.dataset], _path(config)
    if kind.archive and getattr(config, "download", False):
        folder = kind.archive.folder
        if path.name != folder and not (path / folder).is_dir():
            download(kind.archive, path)
    if kind.folders:
        source = kind.open(path, split, **{key: getattr(config, key) for key in kind.keys})
    else:
        source = _with_validation(config, path, split)
    total = getattr(config, "train_images", None)
    return _limited(source, total) if split == "train" and total else source


def _path(config: DataSourceConfig) -> Path:
    kind, path = DATASETS[config.dataset], Path(os.path.expanduser(config.data_path))
    expected = (kind.archive.folder,) if kind.archive else kind.folders
    if kind.archive and not os.path.isdir(path / kind.archive.folder):
        archive, wanted = path / kind.archive.name, getattr(config, "download", False)
        if os.path.isfile(archive) and not (wanted and archive.stat().st_size != kind.archive.size):
            path = archive  # As torchvision leaves it.
    return unpacked(path, expected)


def _val_split(config: DataSourceConfig) -> float:
    return getattr(config, "val_split", 0.0)


def _with_validation(config: DataSourceConfig, path: Path, split: str) -> Source:
    """Open a split of a data set whose validation images are taken from its training images."""
    fraction = _val_split(config)
    if split == "val" and not fraction:
        raise UserError(f"{config.dataset} has no validation images of its own: set some aside with --val_split")
    source = DATASETS[config.dataset].open(path, "test" if split == "test" else "train")
    if split == "test" or not fraction:
        return source
    counts = np.round(np.bincount(source.labels, minlength=len(source.classes)) * fraction)
    val, train = split_by_class(source.labels, counts.astype(int))
    source = Subset(source, val if split == "val" else train)
    if not len(source):
        raise UserError(f"val_split: {fraction} leaves no image for {split}")
    return source


def _limited(source: Source, total: int) -> Source:
    """Return a subset of `total` images, as evenly over the classes as possible."""
    if total > len(source):
        raise UserError(f"train_images: {total} is more than the {len(source)} training images")
    available = np.bincount(source.labels, minlength=len(source.classes))
    counts = np.zeros_like(available)
    while counts.sum() < total:
        open_classes = np.flatnonzero(counts < available)
        per_class = max(1, (total - counts.sum()) // len(open_classes))
        for c in open_classes[: total - counts.sum()]:
            counts[c] += min(per_class, available[c] - counts[c])
    return Subset(source, split_by_class(source.labels, counts)[0])
