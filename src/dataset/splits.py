"""Open and check the splits of a data set."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from src.cli.errors import UserError
from src.dataset.download import download, unpacked
from src.dataset.image_files import say_passed_over
from src.dataset.image_folder import is_flat, split_folder
from src.dataset.options import DataLoadingConfig, DataSourceConfig
from src.dataset.registry import DATASETS
from src.dataset.source import Source, Subset, split_by_class

FLAT_VAL_SPLIT = 0.2


def splits(config: DataSourceConfig) -> tuple[str, ...]:
    """Return the splits that a data set has, of "train", "val" and "test"."""
    own = _own_splits(config)
    derived = {"val"} if "train" in own and val_split_of(config) else set()
    return tuple(split for split in ("train", "val", "test") if split in {*own, *derived})


def val_split_of(config: DataSourceConfig) -> float:
    """Return the fraction of the training images that is set aside: none where there are validation images already.

    By default FLAT_VAL_SPLIT of class folders without train/, and none of other data sets.
    """
    given = getattr(config, "val_split", 0.0)
    if "val" in _own_splits(config):
        return 0.0
    return (FLAT_VAL_SPLIT if has_class_folders_alone(config) else 0.0) if given is None else given


def has_class_folders_alone(config: DataSourceConfig) -> bool:
    """Return whether a data set is class folders without train/."""
    return DATASETS[config.dataset].flat and is_flat(_path(config))


def _own_splits(config: DataSourceConfig) -> tuple[str, ...]:
    kind = DATASETS[config.dataset]
    if not kind.folders:
        return "train", "test"
    path = _path(config)
    if kind.flat and is_flat(path):
        return ("train",)
    return tuple(split for split in kind.folders if os.path.isdir(split_folder(path, split)))


def open_source(config: DataSourceConfig, split: str, quiet: bool = False) -> Source:
    """Open the images of a split: "train", "val" or "test", or "all" of class folders without train/.

    `val` is the data set's own validation split, or the fraction `val_split` of the training images, then left out of
    `train`. Says on stderr which files were passed over, unless `quiet`. Raises UserError for missing or damaged data.
    """
    kind, path = DATASETS[config.dataset], _path(config)
    if kind.archive and getattr(config, "download", False):
        folder = kind.archive.folder
        if path.name != folder and not (path / folder).is_dir():
            download(kind.archive, path)
    fraction = 0.0 if split == "all" else val_split_of(config)
    if split == "all" and not has_class_folders_alone(config):
        raise UserError("split: all is for class folders without train/; give train, val or test")
    taken = "train" if split == "all" or (split == "val" and fraction) else split
    if split == "val" and not fraction and not kind.folders:
        raise UserError(f"{config.dataset} has no validation images of its own: set some aside with --val_split")
    source = kind.open(path, taken, **{key: getattr(config, key) for key in kind.keys})
    if not quiet:
        say_passed_over(path if taken == "train" else split_folder(path, taken), source.passed_over)
    if taken == "train" and fraction:
        source = _part(source, fraction, split)
    total = getattr(config, "train_images", None)
    if split != "train" or not total:
        return source
    if total > len(source):
        raise UserError(f"train_images: {total} is more than the {len(source)} training images")
    return _limited(source, total)


def open_evaluated(config: DataLoadingConfig, split: str, quiet: bool = False) -> Source:
    """Open the images of a split for evaluations: at most eval_images of them. See open_source."""
    source, total = open_source(config, split, quiet), config.eval_images
    return _limited(source, total) if total and total < len(source) else source


def _path(config: DataSourceConfig) -> Path:
    kind, path = DATASETS[config.dataset], Path(os.path.expanduser(config.data_path))
    expected = (kind.archive.folder,) if kind.archive else kind.folders
    if kind.archive and not os.path.isdir(path / kind.archive.folder):
        archive, wanted = path / kind.archive.name, getattr(config, "download", False)
        if os.path.isfile(archive) and not (wanted and archive.stat().st_size != kind.archive.size):
            path = archive  # As torchvision leaves it.
    return unpacked(path, expected, kind.flat)


def _part(source: Source, fraction: float, split: str) -> Source:
    """Return the validation images of training images, or with split "train" the others."""
    counts = np.round(np.bincount(source.labels, minlength=len(source.classes)) * fraction)
    val, train = split_by_class(source.labels, counts.astype(int))
    part = Subset(source, val if split == "val" else train)
    if not len(part):
        raise UserError(f"val_split: {fraction} leaves no image for {split}")
    return part


def _limited(source: Source, total: int) -> Source:
    """Return a subset of `total` images, as evenly over the classes as possible."""
    available = np.bincount(source.labels, minlength=len(source.classes))
    counts = np.zeros_like(available)
    while counts.sum() < total:
        open_classes = np.flatnonzero(counts < available)
        per_class = max(1, (total - counts.sum()) // len(open_classes))
        for c in open_classes[: total - counts.sum()]:
            counts[c] += min(per_class, available[c] - counts[c])
    return Subset(source, split_by_class(source.labels, counts)[0])
