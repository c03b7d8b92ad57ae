"""Small data sets in the layouts that the project reads, made of images (N, H, W, 3) uint8 and labels.

And what tests of data sets ask again and again: all that a pipeline yields, and the one line that a mistake ends in.
"""

from __future__ import annotations

import csv
import pickle
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

import numpy as np
import pytest
from PIL import Image

from src.cli.errors import UserError
from src.dataset import cifar10, cifar10_binary

BATCHES = (*cifar10.SPLITS["train"], *cifar10.SPLITS["test"])


def write_cifar10(folder: Path, train: tuple, test: tuple) -> int:
    """Write folder/cifar-10-batches-py from (images, labels) of each split; return the records in each file.

    As in the official archive all six batches are equally long, so surplus images of one split are left out.
    """
    batches = folder / cifar10.FOLDER
    batches.mkdir(parents=True)
    for name, images, labels in _batches(train, test):
        record = {
            "batch_label": f"batch {name}",
            "labels": labels.tolist(),
            "data": _channels_first(images),
            "filenames": [f"{name}_{i}.png" for i in range(len(images))],
        }
        write_pickle(batches / name, record)
    meta = {"num_cases_per_batch": len(images), "label_names": list(cifar10.CLASSES), "num_vis": 3072}
    write_pickle(batches / "batches.meta", meta)
    return len(images)


def write_cifar10_binary(folder: Path, train: tuple, test: tuple) -> int:
    """Write folder/cifar-10-batches-bin likewise. The reader expects 10,000 records: set cifar10_binary.RECORDS."""
    batches = folder / cifar10_binary.FOLDER
    batches.mkdir(parents=True)
    for name, images, labels in _batches(train, test):
        records = np.concatenate([labels[:, None].astype(np.uint8), _channels_first(images)], axis=1)
        records.tofile(batches / f"{name}.bin")
    return len(images)


def write_pickle(file: Path, value: Any) -> None:
    """Write a value as the official batches are pickled, with the same imports and no others."""
    file.write_bytes(pickle.dumps(value, protocol=3))  # 2, from Python 3, would import _codecs.encode as well.


def read_pickle(file: Path) -> Any:
    """Return what write_pickle has written."""
    return pickle.loads(file.read_bytes())


def write_image_folder(folder: Path, splits: dict[str, dict[str, Sequence[np.ndarray]]]) -> None:
    """Write folder/<split>/<class>/<number>.png, without loss, from {split: {class name: images}}."""
    for split, classes in splits.items():
        for name, images in classes.items():
            (folder / split / name).mkdir(parents=True)
            for i, image in enumerate(images):
                Image.fromarray(image).save(folder / split / name / f"{i:04}.png")


def write_image_csv(
    folder: Path,
    train: dict[str, Sequence[np.ndarray]],
    val: Sequence[tuple[np.ndarray, str]],
    columns: tuple[str, str] = ("image", "label"),
) -> None:
    """Write folder/train/<class>/<number>.png, folder/val/<number>.png, and val.csv that names the class of each."""
    write_image_folder(folder, {"train": train})
    (folder / "val").mkdir()
    rows = []
    for i, (image, label) in enumerate(val):
        Image.fromarray(image).save(folder / "val" / f"{i:04}.png")
        rows.append((f"{i:04}.png", label))
    with open(folder / "val.csv", "w", newline="", encoding="utf-8") as table:
        csv.writer(table).writerows([columns, *rows])


def by_class(images: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, Sequence[np.ndarray]]:
    """Return {class name: its images}, as write_image_folder takes them."""
    return {name: images[labels == label] for label, name in enumerate(names)}


def read_all(pipeline) -> tuple[np.ndarray, np.ndarray]:
    """Return all images and all labels of one pass over a pipeline."""
    batches = list(pipeline.create_dict_iterator(num_epochs=1, output_numpy=True))
    return tuple(np.concatenate([batch[column] for batch in batches]) for column in ("image", "label"))


def refusal(call: Callable, *arguments, **options) -> str:
    """Return the message of the UserError that a call ends in, which is one line."""
    with pytest.raises(UserError) as raised:
        call(*arguments, **options)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    return message


def _batches(train: tuple, test: tuple) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield the name, images and labels of each batch file."""
    records = min(len(train[0]) // 5, len(test[0]))
    for i, name in enumerate(BATCHES):
        images, labels = test if name == "test_batch" else train
        start = 0 if name == "test_batch" else i * records
        yield name, np.asarray(images[start : start + records]), np.asarray(labels[start : start + records])


def _channels_first(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), 3072)
