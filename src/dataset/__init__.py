"""Data sets. Every source yields the same columns: `image` (N, 3, H, W) float32 and `label` (N,) int32."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable

import mindspore.dataset as ds
import numpy as np

from src.cli.errors import UserError
from src.config import OWN_VALIDATION, DataConfig
from src.dataset import cifar10, cifar10_binary, mixing
from src.dataset.cifar10 import open_cifar10
from src.dataset.cifar10_binary import open_cifar10_binary
from src.dataset.digits import open_digits
from src.dataset.download import download, unpacked
from src.dataset.image_csv import open_image_csv
from src.dataset.image_folder import open_image_folder
from src.dataset.imagenet import open_imagenet
from src.dataset.mindrecord import open_mindrecord
from src.dataset.preprocessing import Drawn, Preprocessing, evaluation_transforms, pixel_changes, training_stages
from src.dataset.sampling import Batches, Epochs, EvaluationPixels, EvaluationRows, Steps, TrainingPixels, TrainingRows
from src.dataset.source import Source, Subset, split_by_class

MAX_WORKERS = 8
_DOWNLOADS = {
    "cifar10": (cifar10.FOLDER, cifar10.ARCHIVE),
    "cifar10_binary": (cifar10_binary.FOLDER, cifar10_binary.ARCHIVE),
}


def create_dataset(source: str, split: str, *, num_shards: int = 1, shard_id: int = 0, seed: int = 1, **options):
    """Return a batched MindSpore data set.

    source, split: see open_source; `options` are further fields of DataConfig.
    num_shards, shard_id: the part of the images that this device reads.

        create_dataset("cifar10", "train", data_path="./data", batch_size=32, image_size=224)
    """
    config = DataConfig(dataset=source, **options)
    images = open_source(config, split)
    preprocessing = preprocessing_of(config, images)
    if split == "train":
        return training_pipeline(images, config, preprocessing, seed, num_shards, shard_id)
    return evaluation_pipeline(
        *(images, preprocessing, config.batch_size, config.num_workers, num_shards, shard_id, config.max_broken_images)
    )


def splits(config: DataConfig) -> tuple[str, ...]:
    """Return the splits that a data set has: train, and val and test as there are."""
    if config.dataset in OWN_VALIDATION:
        names = ("train", "val") if config.dataset in ("image_csv", "imagenet") else ("train", "val", "test")
        path = unpacked(Path(os.path.expanduser(config.data_path)))
        return tuple(name for name in names if os.path.isdir(path / name))
    return ("train", "val", "test") if config.val_split else ("train", "test")


def open_source(config: DataConfig, split: str) -> Source:
    """Return the images of a split: "train", "val" or "test".

    `val` is a data set's own, or `val_split` of the training images, which `train` then lacks. Raises UserError for
    data that is missing or not sound.
    """
    path = unpacked(Path(os.path.expanduser(config.data_path)))
    if config.download and config.dataset in _DOWNLOADS:
        folder, archive = _DOWNLOADS[config.dataset]
        if path.name != folder and not (path / folder).is_dir():
            download(archive, path)
    if config.dataset == "image_folder":
        source = open_image_folder(path, split)
    elif config.dataset == "image_csv":
        source = open_image_csv(path, split, tuple(config.csv_columns))
    elif config.dataset == "imagenet":
        source = open_imagenet(path, split, config.val_labels, tuple(config.csv_columns))
    elif config.dataset == "mindrecord":
        source = open_mindrecord(path, split)
    else:
        open_split: Callable = {
            "cifar10": open_cifar10,
            "cifar10_binary": open_cifar10_binary,
            "digits": open_digits,
        }[config.dataset]
        if split == "val" and not config.val_split:
            raise UserError(f"{config.dataset} has no validation images of its own: set some aside with --val_split")
        source = open_split(path, "test" if split == "test" else "train")
        if split != "test" and config.val_split:
            counts = np.round(np.bincount(source.labels, minlength=len(source.classes)) * config.val_split)
            val, train = split_by_class(source.labels, counts.astype(int))
            source = Subset(source, val if split == "val" else train)
            if not len(source):
                raise UserError(f"val_split: {config.val_split} leaves no image for {split}")
    return _limited(source, config.train_images) if split == "train" and config.train_images else source


def _limited(source: Source, total: int) -> Source:
    """Return `total` images of a source, as evenly over its classes as they are."""
    if total > len(source):
        raise UserError(f"train_images: {total} are more than the {len(source)} training images there are")
    available = np.bincount(source.labels, minlength=len(source.classes))
    counts = np.zeros_like(available)
    while counts.sum() < total:
        open_classes = np.flatnonzero(counts < available)
        share = max(1, (total - counts.sum()) // len(open_classes))
        for c in open_classes[: total - counts.sum()]:
            counts[c] += min(share, available[c] - counts[c])
    return Subset(source, split_by_class(source.labels, counts)[0])


def preprocessing_of(config: DataConfig, source: Source) -> Preprocessing:
    """Return how images of this source are brought to the network in evaluation.

    Raises UserError for a device that is to resize images of any size, which fill no batch.
    """
    on_device = config.preprocess == "device"
    if on_device and not source.native_size:
        raise UserError(
            f"preprocess: device takes images that all have one size, and those of {config.dataset} have any; leave it "
            "at host"
        )
    return Preprocessing(
        config.image_size,
        config.fit,
        config.normalize,
        source.mean,
        source.std,
        source.native_size,
        "device" if on_device else config.resizer,
    )


def training_pipeline(
    source: Source,
    config: DataConfig,
    preprocessing: Preprocessing,
    seed: int,
    num_shards: int = 1,
    shard_id: int = 0,
    epoch: int = 0,
    step: int = 0,
) -> ds.Dataset:
    """Return shuffled, augmented batches, all of the same size: the remainder is dropped. Arguments: see Epochs.

    What a step sees follows from the seed, and from nothing else: not from the threads, the devices that share a
    global batch, or where the training was resumed. Of mixed images (src/dataset/mixing.py) `label` has the shares of
    the classes, (N, classes) float32.
    """
    if config.batch_size * num_shards > len(source):
        raise UserError(
            f"batch_size: {config.batch_size} is not allowed: there are {len(source)} training images"
            + (f" for {num_shards} devices" if num_shards > 1 else "")
        )
    order = Epochs(len(source), config.batch_size, num_shards, shard_id, seed, epoch, step)
    augment = [config.augment] if isinstance(config.augment, str) else config.augment
    columns = ["image", "label", "draw"]
    if preprocessing.on_device:
        changes = pixel_changes(preprocessing, augment, config.crop_padding, seed)
        rows = TrainingPixels(source, preprocessing, order.num_samples, config.max_broken_images, changes)
        steps = Steps(order)
        batches = _generator(Batches(rows, steps.draws, steps.num_samples), columns, steps, 1)
    else:
        rows = TrainingRows(source, preprocessing, order.num_samples, config.max_broken_images)
        images = _generator(rows, columns, order, _readers(source, config.num_workers))
        workers = _workers(config.num_workers)
        for stage in training_stages(preprocessing, augment, config.crop_padding, seed):
            if isinstance(stage, Drawn):
                changed = ["image", "draw"]
                images = images.map(stage, changed, changed, num_parallel_workers=workers, python_multiprocessing=False)
            else:
                images = images.map(stage, "image", num_parallel_workers=workers)
        batches = images.batch(config.batch_size, drop_remainder=True)
    alphas = {name: getattr(config, f"{name}_alpha") for name in mixing.METHODS if name in augment}
    if alphas:
        channels = 2 if preprocessing.on_device else 0
        mix = mixing.Mixing(alphas, len(source.classes), seed, channels)
        batches = batches.map(mix, columns, columns[:2], num_parallel_workers=1, python_multiprocessing=False)
    return batches.project(columns[:2])


def evaluation_pipeline(
    source: Source,
    preprocessing: Preprocessing,
    batch_size: int,
    num_workers: int = 0,
    num_shards: int = 1,
    shard_id: int = 0,
    max_broken_images: int = 0,
) -> ds.Dataset:
    """Return batches in the source's order, each image once over all shards; the last batch may be smaller.

    Of several shards each holds every num_shards-th image.
    """
    check_shares(source, num_shards)
    if num_shards > 1:
        source = Subset(source, np.arange(shard_id, len(source), num_shards))
    columns, order = ["image", "label"], ds.SequentialSampler()
    if preprocessing.on_device:
        rows = EvaluationPixels(source, preprocessing, max_broken_images)

        def members(batch: int) -> range:
            return range(batch * batch_size, min((batch + 1) * batch_size, len(source)))

        return _generator(Batches(rows, members, -(-len(source) // batch_size)), columns, order, 1)
    rows = EvaluationRows(source, preprocessing, max_broken_images)
    images = _generator(rows, columns, order, _readers(source, num_workers))
    images = images.map(evaluation_transforms(preprocessing), "image", num_parallel_workers=_workers(num_workers))
    return images.batch(batch_size, drop_remainder=False)


def check_shares(source: Source, num_shards: int) -> None:
    """Raise UserError when one of the shards of an evaluation would have no image."""
    if num_shards > len(source):
        raise UserError(f"{len(source)} images cannot be shared by {num_shards} devices; evaluate on fewer devices")


def _generator(
    rows: TrainingRows | EvaluationRows | Batches, columns: list[str], order: ds.Sampler, workers: int
) -> ds.Dataset:
    return ds.GeneratorDataset(rows, columns, sampler=order, num_parallel_workers=workers, python_multiprocessing=False)


def _readers(source: Source, num_workers: int) -> int:
    # For images in memory one thread of Python is faster than two.
    return _workers(num_workers) if source.decodes else 1


def _workers(num_workers: int) -> int:
    return min(num_workers or MAX_WORKERS, os.cpu_count() or 1)
