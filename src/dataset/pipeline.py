"""Pipelines: batches of images, shuffled and augmented for training, or in order for evaluation."""

from __future__ import annotations

import os

import mindspore.dataset as ds
import numpy as np

from src.cli.errors import UserError
from src.dataset import mixing
from src.dataset.augmentation import Drawn, DrawnPart, pixel_changes, training_stages
from src.dataset.options import DataConfig
from src.dataset.preprocessing import Preprocessing, evaluation_transforms, fit_transforms
from src.dataset.sampling import Batches, Epochs, EvaluationPixels, EvaluationRows, Steps, TrainingPixels, TrainingRows
from src.dataset.source import Source, Subset

MAX_WORKERS = 8


def preprocessing_of(config: DataConfig, source: Source, target: str = "CPU") -> Preprocessing:
    """Return the preprocessing of a data set's images.

    target: kind of device, which decides `preprocess: null`.
    """
    on_device = config.preprocess == "device" or (config.preprocess is None and target == "Ascend")
    # In the graph all images of a batch have one size, and random parts of images have not.
    resizes = (
        bool(source.native_size)
        and config.resizer == "mindspore"
        and not ("crop_flip" in config.augment and config.fit == "center_crop")
    )
    return Preprocessing(
        config.image_size,
        config.fit,
        config.normalize,
        source.mean,
        source.std,
        source.native_size,
        resizer="device" if on_device and resizes else config.resizer,
        normalizer="device" if on_device else "host",
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
    """Return shuffled, augmented batches of equal size, dropping the remainder. Arguments: see Epochs.

    The images of a step depend only on the seed: not on threads, on the number of devices with the same global batch,
    or on resuming. With Mixup or CutMix (src/dataset/mixing.py) `label` holds soft labels, (N, classes) float32.
    """
    if config.batch_size * num_shards > len(source):
        raise UserError(
            f"batch_size: {config.batch_size} is not allowed: there are {len(source)} training images"
            + (f" for {num_shards} devices" if num_shards > 1 else "")
        )
    order = Epochs(len(source), config.batch_size, num_shards, shard_id, seed, epoch, step)
    augment = [config.augment] if isinstance(config.augment, str) else config.augment
    columns = ["image", "label", "draw"]
    if preprocessing.resizer == "device":
        changes = pixel_changes(preprocessing, augment, config.crop_padding, seed)
        rows = TrainingPixels(source, preprocessing, order.num_samples, config.max_broken_images, changes)
        steps = Steps(order)
        batches = _generator(Batches(rows, steps.draws, steps.num_samples), columns, steps, 1)
    else:
        stages = training_stages(preprocessing, augment, config.crop_padding, seed)
        part = stages.pop(0) if isinstance(stages[0], DrawnPart) else None
        rows = TrainingRows(source, preprocessing, order.num_samples, config.max_broken_images, part)
        images = _generator(rows, columns, order, _readers(source, config.num_workers))
        workers = _workers(config.num_workers)
        for stage in stages:
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
    pad: bool = False,
    pixels: bool = False,
) -> ds.Dataset:
    """Return batches in the order of the data set, each image once over all shards.

    Each shard holds every num_shards-th image. The last batch may be smaller, or with `pad` is filled with rows of
    EvaluationRows.NO_IMAGE, so that all batches have one shape and the graph is compiled only once. With `pixels` the
    images are uint8 (N, side, side, 3), for a model that normalises them itself.
    """
    check_shards(source, num_shards)
    if num_shards > 1:
        source = Subset(source, np.arange(shard_id, len(source), num_shards))
    columns, order = ["image", "label"], ds.SequentialSampler()
    batch_size = min(batch_size, len(source))
    batches = -(-len(source) // batch_size)
    count = batches * batch_size if pad else len(source)
    if preprocessing.resizer == "device":
        rows = EvaluationPixels(source, preprocessing, count, max_broken_images)

        def members(batch: int) -> range:
            return range(batch * batch_size, min((batch + 1) * batch_size, count))

        return _generator(Batches(rows, members, batches), columns, order, 1)
    rows = EvaluationRows(source, preprocessing, count, max_broken_images)
    images = _generator(rows, columns, order, _readers(source, num_workers))
    transforms = (fit_transforms if pixels or preprocessing.on_device else evaluation_transforms)(preprocessing)
    images = images.map(transforms, "image", num_parallel_workers=_workers(num_workers))
    return images.batch(batch_size, drop_remainder=False)


def check_shards(source: Source, num_shards: int) -> None:
    """Raise UserError if one of the shards of an evaluation would be empty."""
    if num_shards > len(source):
        raise UserError(f"{len(source)} images are too few for {num_shards} devices; evaluate on fewer devices")


def _generator(
    rows: TrainingRows | EvaluationRows | Batches, columns: list[str], order: ds.Sampler, workers: int
) -> ds.Dataset:
    return ds.GeneratorDataset(rows, columns, sampler=order, num_parallel_workers=workers, python_multiprocessing=False)


def _readers(source: Source, num_workers: int) -> int:
    # For images in memory one thread of Python is faster than two.
    return _workers(num_workers) if source.decodes else 1


def _workers(num_workers: int) -> int:
    return min(num_workers or MAX_WORKERS, len(os.sched_getaffinity(0)))
