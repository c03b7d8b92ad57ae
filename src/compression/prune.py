"""Prune by magnitude (Han et al. 2015, https://arxiv.org/abs/1506.02626): the smallest weights become exact zeros.

Existing zeros count as pruned. Without fine-tuning, which is up to the caller, a SqueezeNet tolerates little pruning.
"""

from __future__ import annotations

from typing import Mapping

import numpy as np

# Header, names, model card, tables and codebooks, of a network of 26 convolutions and few classes.
_FILE_BYTES = 4000


def mask_by_sparsity(weights: np.ndarray, sparsity: float) -> np.ndarray:
    """Return a mask of the weights to keep, so that a fraction `sparsity` (0 to 1) of them is pruned.

    Exactly round(sparsity x size) are pruned, the smallest first, and of equal magnitudes the first in memory. Weights
    that are zero are pruned in any case.
    """
    magnitudes = np.abs(weights).ravel()
    kept = magnitudes > 0
    kept[np.argsort(magnitudes, kind="stable")[: round(sparsity * weights.size)]] = False
    return kept.reshape(weights.shape)


def mask_by_tolerance(weights: np.ndarray, tolerance: float) -> np.ndarray:
    """Return a mask of the weights to keep, so that as many are pruned as the tolerance (0 to 1) allows.

    The pruned weights have at most `tolerance` of the layer's Euclidean norm. A layer of many small and few large
    weights loses more of them than one of similar weights, so that one number serves all layers.
    """
    squares = np.sort(np.square(weights.astype(np.float64)), axis=None)
    energy = np.cumsum(squares)
    allowed = tolerance**2 * energy[-1] if len(energy) else 0.0
    count = int(np.searchsorted(energy, allowed, side="right"))
    return mask_by_sparsity(weights, count / max(1, weights.size))


def prune(weights: np.ndarray, sparsity: float | None = None, tolerance: float | None = None) -> np.ndarray:
    """Return a copy of the weights, pruned by sparsity, by tolerance, or not at all."""
    if sparsity is not None:
        return np.where(mask_by_sparsity(weights, sparsity), weights, np.float32(0))
    if tolerance is not None:
        return np.where(mask_by_tolerance(weights, tolerance), weights, np.float32(0))
    return weights.copy()


def sparsities_for(
    parameters: Mapping[str, np.ndarray], importances: Mapping[str, float], target_bytes: int, bits: int
) -> dict[str, float]:
    """Return the sparsity of each convolution for a file of about target_bytes with `bits` per index.

    importances: mean damage to the network's output per squared weight, by the name of each convolution's weight. One
    threshold on importance times square holds for all weights, so a sensitive layer keeps smaller ones. The size of the
    file is estimated from the entropy of the positions; a twentieth of each layer is kept in any case.
    """
    squares = {name: np.sort(np.square(parameters[name], dtype=np.float64).ravel()) for name in importances}
    others = sum(array.nbytes for name, array in parameters.items() if name not in importances)

    def at(threshold: float) -> dict[str, float]:
        return {
            name: min(0.95, float(np.searchsorted(squares[name], threshold / max(value, 1e-300)) / len(squares[name])))
            for name, value in importances.items()
        }

    def estimated_bytes(sparsities: Mapping[str, float]) -> float:
        size = others + _FILE_BYTES
        for name, sparsity in sparsities.items():
            positions = -sum(p * np.log2(p) for p in (sparsity, 1 - sparsity) if p > 0)
            size += len(squares[name]) * (positions + (1 - sparsity) * bits) / 8
        return size

    low, high = -200.0, 100.0  # Binary logarithms of the threshold.
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if estimated_bytes(at(2.0**middle)) > target_bytes else (low, middle)
    return at(2.0**high)
