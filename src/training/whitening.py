"""Whitening initialization of the first convolution."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn

from src.cli.errors import UserError

# Number of images for the patches, and the variance below which a direction is not amplified further, as noise.
IMAGES = 2000
NOISE = 1e-2


def whitened(net: nn.Cell, images: np.ndarray) -> None:
    """Initialize the first convolution of a SqueezeNet with whitened principal directions of image patches.

    images: (N, channels, H, W), preprocessed.

    The filters are eigenvectors of the patches' covariance, divided by the square roots of their eigenvalues, largest
    first, each with both signs because of the following ReLU. Excess filters stay random (Jordan 2024,
    https://arxiv.org/abs/2404.00498, section 3.2, with filters of 2x2 pixels). Raises UserError for images smaller than
    the filters.
    """
    convolution = net.features[0].conv
    filters = convolution.weight.asnumpy().astype(np.float64)
    outputs, channels, side, _ = filters.shape
    if min(images.shape[2:]) < side:
        raise UserError(f"whiten_stem: images of {images.shape[2]} pixels are smaller than the {side}x{side} filters")
    values, vectors = np.linalg.eigh(_moments(images, side))
    directions = (vectors / np.sqrt(np.maximum(values, 0) + NOISE)).T[::-1].reshape(-1, channels, side, side)
    pairs = min(outputs // 2, len(directions))
    filters[:pairs], filters[pairs : 2 * pairs] = directions[:pairs], -directions[:pairs]
    convolution.weight.set_data(Tensor(filters.astype(np.float32)))


def _moments(images: np.ndarray, side: int) -> np.ndarray:
    """Return the matrix of second moments of image patches, over adjacent patches of all images."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (side, side), (2, 3))[:, :, ::side, ::side]
    patches = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, images.shape[1] * side * side).astype(np.float64)
    return patches.T @ patches / len(patches)
