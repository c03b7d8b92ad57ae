"""Pruning by magnitude (Han et al. 2015, https://arxiv.org/abs/1506.02626): the smallest weights become exact zeros.

Zeros that are there already count as pruned. Without training afterwards a SqueezeNet bears little of it; fine-tuning
with the mask held is for whoever calls this.
"""

from __future__ import annotations

import numpy as np


def mask_by_sparsity(weights: np.ndarray, sparsity: float) -> np.ndarray:
    """Return which weights to keep, bool of their shape, so that a share `sparsity` (0 to 1) of them goes.

    Exactly round(sparsity x size) go, the smallest; of equal magnitudes the first ones. Those that are zero already
    go in any case.
    """
    magnitudes = np.abs(weights).ravel()
    kept = magnitudes > 0
    kept[np.argsort(magnitudes, kind="stable")[: round(sparsity * weights.size)]] = False
    return kept.reshape(weights.shape)


def mask_by_tolerance(weights: np.ndarray, tolerance: float) -> np.ndarray:
    """Return which weights to keep, bool of their shape, so that as many go as the tolerance (0 to 1) allows.

    What goes has at most `tolerance` of the layer's Euclidean norm. A layer of many small weights and few large ones
    loses more of them than one whose weights are alike, so that one number serves all layers.
    """
    squares = np.sort(np.square(weights.astype(np.float64)), axis=None)
    energy = np.cumsum(squares)
    allowed = tolerance**2 * energy[-1] if len(energy) else 0.0
    count = int(np.searchsorted(energy, allowed, side="right"))
    return mask_by_sparsity(weights, count / max(1, weights.size))


def prune(weights: np.ndarray, sparsity: float | None = None, tolerance: float | None = None) -> np.ndarray:
    """Return a copy of the weights, pruned by either measure or by none."""
    if sparsity is not None:
        return np.where(mask_by_sparsity(weights, sparsity), weights, np.float32(0))
    if tolerance is not None:
        return np.where(mask_by_tolerance(weights, tolerance), weights, np.float32(0))
    return weights.copy()
