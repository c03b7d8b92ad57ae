"""Read checkpoints, compressed files and the authors' file as arrays with a model card."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from src.checkpoint import load_network, read_compressed, weights_of
from src.cli.errors import UserError
from src.conversion import deep_compression
from src.files.kinds import explained
from src.model_card import ModelCard
from src.sqz.fileformat import SUFFIX


def read_weights(path: str, classes: str | None = None) -> tuple[dict[str, np.ndarray], ModelCard]:
    """Return the float32 tensors and the model card of any file that compress.py takes.

    classes: file with the class names, for the authors' file. Raises UserError for an unusable file.
    """
    suffix = Path(path).suffix
    if classes and suffix != deep_compression.SUFFIX:
        raise UserError(f"classes: {path} has class names of its own; --classes is for {deep_compression.SUFFIX} files")
    if suffix == SUFFIX:
        return read_compressed(path)
    if suffix == deep_compression.SUFFIX:
        with explained(path):
            return deep_compression.read_published(path), deep_compression.published_card(classes)
    net, card = load_network(path)
    return {name: parameter.asnumpy() for name, parameter in weights_of(net).items()}, card
