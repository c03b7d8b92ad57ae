"""Sampling: the images of every training step, derived from seed and epoch, so that training can resume anywhere."""

from __future__ import annotations

from functools import partial
from typing import Callable, Iterable, Iterator, Sequence

import mindspore.dataset as ds
import numpy as np

from src.cli.errors import UserError
from src.cli.terminal import warn
from src.dataset.augmentation import Drawn, DrawnPart
from src.dataset.preprocessing import Preprocessing
from src.dataset.source import Choice, Source


class Epochs(ds.Sampler):
    """Sampler of training images: each epoch is a new permutation, cut into global batches and these into shards.

    images: number of images; the remainder of a permutation that fills no global batch is left out of that epoch.
    batch_size: images per step on each device.
    num_shards, shard_id: number of devices, and index of this one. Together they see in every step the images that one
        device with num_shards * batch_size would see.
    epoch, step: start, as epochs done before and steps done in the next one; unless step is 0, the data set ends with
        that epoch.

    Yields *draws*: epoch * images + index, the number of an image within the whole training.
    """

    def __init__(
        self, images: int, batch_size: int, num_shards: int, shard_id: int, seed: int, epoch: int = 0, step: int = 0
    ):
        self.images, self.seed, self.epoch = images, seed, epoch
        self.part = slice(shard_id * batch_size, (shard_id + 1) * batch_size)
        self.global_batch, self.step = batch_size * num_shards, step
        self.steps = images // self.global_batch
        super().__init__((self.steps - step) * batch_size)

    def draws(self, epoch: int) -> np.ndarray:
        """Return the draws of this device in an epoch, (steps, batch_size) int64."""
        # RandomState's numbers are the same in every version of numpy.
        order = np.random.RandomState([self.seed, epoch]).permutation(self.images)
        batches = order[: self.steps * self.global_batch].reshape(-1, self.global_batch)
        return epoch * self.images + batches[:, self.part].astype(np.int64)

    def __iter__(self) -> Iterator[int]:
        draws = self.draws(self.epoch)[self.step :]
        self.epoch += 1
        return iter(draws.ravel().tolist())


class Steps(ds.Sampler):
    """Sampler of whole batches in the order of Epochs: yields epoch * steps + step."""

    def __init__(self, order: Epochs):
        self.order = order
        self._epoch, self._draws = -1, None
        super().__init__(order.steps - order.step)

    def draws(self, number: int) -> np.ndarray:
        """Return the draws of a step, (batch_size,) int64."""
        epoch, step = divmod(int(number), self.order.steps)
        if epoch != self._epoch:
            self._epoch, self._draws = epoch, self.order.draws(epoch)
        return self._draws[step]

    def __iter__(self) -> Iterator[int]:
        first = self.order.epoch * self.order.steps
        self.order.epoch += 1
        return iter(range(first + self.order.step, first + self.order.steps))


class TrainingRows:
    """Training images in the order of Epochs: rows of image (H, W, 3) uint8, label and draw.

    limit: number of unreadable images to tolerate; each is named once on stderr and replaced by the next image. Raises
        UserError beyond the limit.
    part: the part of each image to read, or None for whole images.
    """

    def __init__(
        self, source: Source, preprocessing: Preprocessing, rows: int, limit: int, part: DrawnPart | None = None
    ):
        self.source, self.preprocessing, self.rows, self.part = source, preprocessing, rows, part
        self.limit = min(limit, len(source) - 1)  # At least one image must replace the others.

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, draw: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        index = int(draw) % len(self.source)
        choice = partial(self.part, int(draw)) if self.part else None
        while (image := readable_image(self.source, index, self.limit, choice)) is None:
            index = (index + 1) % len(self.source)
        # With numpy 2, MindSpore takes a number only as a zero-dimensional array, not as a scalar.
        return self.preprocessing.to_scale(image), np.asarray(self.source.labels[index]), np.asarray(draw, np.int64)


class TrainingPixels(TrainingRows):
    """Training images for preprocessing on the device: rows of augmented pixels, label and draw."""

    def __init__(self, source: Source, preprocessing: Preprocessing, rows: int, limit: int, changes: Sequence[Drawn]):
        super().__init__(source, preprocessing, rows, limit)
        self.changes = changes

    def __getitem__(self, draw: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        image, label, draw = super().__getitem__(draw)
        if not any(change.name == "crop" for change in self.changes):
            image = self.preprocessing.pixels(image)
        for change in self.changes:
            image, _ = change(image, draw)
        return image, label, draw


class EvaluationRows:
    """Images in the order of the data set: rows of image (H, W, 3) uint8 and label.

    rows: number of rows; those beyond the source fill the last batch. Like unreadable images, they are black and have
        the label NO_IMAGE.
    limit: see TrainingRows.
    """

    NO_IMAGE = -1

    def __init__(self, source: Source, preprocessing: Preprocessing, rows: int, limit: int):
        self.source, self.preprocessing, self.rows, self.limit = source, preprocessing, rows, limit

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        index = int(index)
        image = readable_image(self.source, index, self.limit) if index < len(self.source) else None
        if image is None:
            side = self.preprocessing.side
            return self.preprocessing.to_scale(np.zeros((side, side, 3), np.uint8)), np.asarray(np.int32(self.NO_IMAGE))
        return self.preprocessing.to_scale(image), np.asarray(self.source.labels[index])


class EvaluationPixels(EvaluationRows):
    """Images in the order of the data set, for preprocessing on the device."""

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image, label = super().__getitem__(index)
        return self.preprocessing.pixels(image), label


class Batches:
    """Batches of pixels, assembled in the one thread that reads the images from memory.

    As separate rows of MindSpore's pipeline, small images would cost several times their preprocessing.

    rows: TrainingPixels or EvaluationPixels.
    members: returns the row numbers of a batch, by its number.
    count: batches per epoch.
    """

    def __init__(self, rows, members: Callable[[int], Iterable[int]], count: int):
        self.rows, self.members, self.count = rows, members, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[np.ndarray, ...]:
        return tuple(np.stack(column) for column in zip(*(self.rows[row] for row in self.members(int(number)))))


def readable_image(source: Source, index: int, limit: int, choice: Choice = None) -> np.ndarray | None:
    """Return an image or its chosen part; for an unreadable one warn, add it to source.broken and return None."""
    if index in source.broken:
        return None
    try:
        return source.image(index, choice)
    except UserError as error:
        if len(source.broken) >= limit:
            raise
        source.broken.add(index)
        warn(f"image left out: {error}")
        return None
