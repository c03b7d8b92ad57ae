"""Random weights by the names of other systems, and the configuration that reads a file of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from src.conversion.config import ConvertConfig
from src.conversion.names import NAMINGS, parameters

SMALL = {"num_classes": 10, "version": "cifar"}
TOLD = {"classifier_padding": 0, "ceil_mode": False}
# Of a network that is no published one.
ALL_TOLD = {
    **TOLD,
    **{"bypass": "none", "stem": "imagenet", "final_relu": True, "image_size": 32, "fit": "resize"},
    **{"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]},
}


def random_tensors(model: dict, naming: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Return random weights of a network by their names in another system."""
    random = np.random.RandomState(seed)
    found = parameters(model, NAMINGS[naming])
    return {p.name: random.standard_normal(p.shape).astype(np.float32) * 0.1 for p in found}


def config(file_format: str, file: Path, **others) -> ConvertConfig:
    """Return the configuration that reads a file."""
    return ConvertConfig(str(file), "net.ckpt", from_format=file_format, **others)
