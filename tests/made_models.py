"""Small networks made for tests of what is done with a checkpoint."""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor

from src.checkpoint import save_checkpoint
from src.dataset.preprocessing import Preprocessing
from src.model_card import ModelCard

NARROW = {"base_e": 8, "incr_e": 8}


def write_checkpoint(
    folder: Path,
    image_size: int = 16,
    normalize: str = "dataset",
    classes: int = 7,
    scale: float = 1.0,
    preprocessing: Preprocessing | None = None,
    **model,
) -> Path:
    """Save a narrow network with weights that give clearly different logits, and return its file.

    scale: of the weights of the last convolution.
    preprocessing: of its images, if not simple resizing to image_size.
    """
    arguments = {"num_classes": classes, "version": "cifar", "final_relu": False, **NARROW, **model}
    if preprocessing is None:
        preprocessing = Preprocessing(image_size, "resize", normalize, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    card = ModelCard(arguments, [f"class {c}" for c in range(classes)], preprocessing, "image_folder", 0.0)
    ms.set_seed(1)
    net = card.build()
    random = np.random.RandomState(1)
    for parameter in net.classifier.trainable_params():
        parameter.set_data(Tensor(scale * random.standard_normal(parameter.shape).astype(np.float32)))
    save_checkpoint(net, folder / "net.ckpt", card)
    return folder / "net.ckpt"
