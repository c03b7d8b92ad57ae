"""What compress.py reads: checkpoints, compressed files and the authors' file, all as arrays with a model card."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from src.checkpoint import ModelCard, load_network, weights_of
from src.compression import published
from src.compression.fileformat import SUFFIX, decode
from src.compression.rans import FormatError
from src.dataset.transforms import Preprocessing
from src.errors import UserError


def read_compressed(path: str | Path) -> tuple[dict[str, np.ndarray], ModelCard]:
    """Return the tensors of a compressed file, float32, and its model card. Raises UserError when it is not sound."""
    try:
        parameters, card = decode(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot read it ({error.strerror})") from None
    except FormatError as error:
        raise UserError(f"{path}: {error}; take another copy of a file that compress.py wrote") from None
    try:
        return parameters, ModelCard.from_json(card)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: its model card cannot be read ({error}); is it from a newer version?") from None


def read_weights(path: str, classes: str | None = None) -> tuple[dict[str, np.ndarray], ModelCard]:
    """Return the float32 tensors of any file that compress.py takes, and its model card.

    classes: a file with the names of the classes, for the authors' file. Raises UserError for what cannot be used.
    """
    suffix = Path(path).suffix
    if classes and suffix != published.SUFFIX:
        raise UserError(f"classes: {path} has class names of its own; --classes is for {published.SUFFIX} files")
    if suffix == SUFFIX:
        return read_compressed(path)
    if suffix == published.SUFFIX:
        return published.read_published(path), published_card(classes)
    net, card = load_network(path)
    return {name: parameter.asnumpy() for name, parameter in weights_of(net).items()}, card


def published_card(classes: str | None = None) -> ModelCard:
    """Return the card of the authors' network: Caffe's input is 255 times an image from 0 to 1, less a mean."""
    names = read_class_names(classes, published.CLASSES) if classes else [str(i) for i in range(published.CLASSES)]
    preprocessing = Preprocessing(
        image_size=published.IMAGE_SIZE,
        fit="center_crop",
        normalize="dataset",
        mean=tuple(mean / 255 for mean in published.MEAN),
        std=(1 / 255,) * 3,
        resizer="pillow",
    )
    return ModelCard(dict(published.MODEL), names, preprocessing, dataset="image_folder", val_split=0.0)


def read_class_names(path: str, count: int) -> list[str]:
    """Return the lines of a text file, one for each class. Raises UserError when there are not so many."""
    try:
        names = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path}: cannot read the class names ({error})") from None
    if len(names) != count:
        raise UserError(f"{path}: {len(names)} lines; the network has {count} classes")
    return names
