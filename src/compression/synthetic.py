"""Draw synthetic images for calibration without real ones: overlapping leaves of all sizes.

The dead leaves model (Lee, Mumford and Huang 2001): shapes that occlude one another, with sizes distributed by the
inverse cube, have the edges and the spectrum of photographs, unlike noise.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

_LEAVES = 1500
_SMALLEST, _LARGEST = 1 / 40, 1 / 2  # Radii, in units of the image's side.
# Spread of the three colors around a leaf's grey: photographs are far less colourful than random colours.
_COLOR_SPREAD = 0.08


def dead_leaves(size: int, random: np.random.RandomState) -> np.ndarray:
    """Return an image (size, size, 3) uint8."""
    image = Image.new("RGB", (size, size))
    canvas = ImageDraw.Draw(image)
    fraction = random.random_sample(_LEAVES)
    radii = size * (_SMALLEST**-2 - fraction * (_SMALLEST**-2 - _LARGEST**-2)) ** -0.5
    centers = size * random.random_sample((_LEAVES, 2))
    stretches = np.exp(0.4 * random.standard_normal(_LEAVES))
    tint = _COLOR_SPREAD * random.standard_normal(3)
    greys = random.random_sample((_LEAVES, 1))
    colors = np.clip(greys + tint + _COLOR_SPREAD * random.standard_normal((_LEAVES, 3)), 0, 1)
    for (x, y), radius, stretch, color in zip(centers, radii, stretches, (255 * colors).astype(int)):
        width, height = radius * stretch, radius / stretch
        canvas.ellipse((x - width, y - height, x + width, y + height), fill=tuple(color.tolist()))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(size / 256)))
