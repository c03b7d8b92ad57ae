"""Convert frequency tables between counts, levels in the file and the coder's frequencies.

A file holds a level from 0 to 255 for each symbol; a symbol's frequency is proportional to the square of its level.
Counts scatter by their square root, so steps of the square root lose equally little everywhere, and neighboring
symbols of a codebook, which are about equally frequent, have similar levels.
"""

from __future__ import annotations

import numpy as np

from src.sqz.rans import TOTAL, FormatError

MAX_LEVEL = 255
# Steps of the square root of a count that fit_levels tries; 1 loses a quarter of a bit a symbol.
_STEPS = (0.5, 0.7, 1.0, 1.4, 2.0)


def frequencies_of(levels: np.ndarray) -> np.ndarray:
    """Return frequencies (alphabet,) with sum TOTAL from levels (alphabet,) from 0 to 255.

    1 + floor(level^2 (TOTAL - n) / sum of level^2) for each of the n symbols whose level is not 0, 0 for the others;
    the remainder to TOTAL goes to the first symbol of the highest level. Raises FormatError when all levels are 0.
    """
    squares = levels.astype(np.int64) ** 2
    present = squares > 0
    if not present.any():
        raise FormatError("a table has no symbols")
    frequencies = present + squares * (TOTAL - present.sum()) // squares.sum()
    frequencies[squares.argmax()] += TOTAL - frequencies.sum()
    return frequencies


def fit_levels(counts: np.ndarray) -> np.ndarray:
    """Return levels (alphabet,) uint8 that code symbols with these counts in few bytes, table included."""
    best, best_cost = None, np.inf
    for step in _STEPS:
        # 1 is added to every frequency, so a level stands for the count without that part.
        above_one = np.maximum(counts - counts.sum() / TOTAL, 0)
        scale = min(1 / step, MAX_LEVEL / max(1.0, np.sqrt(above_one.max())))
        levels = np.where(counts > 0, np.maximum(1, np.round(np.sqrt(above_one) * scale)), 0).astype(np.uint8)
        cost = coded_bits(counts, frequencies_of(levels)) + level_bits(levels)
        if cost < best_cost:
            best, best_cost = levels, cost
    return best


def level_bits(levels: np.ndarray) -> float:
    """Return an estimate of the bits of a table in the file, made before its coder is known."""
    return float(np.sum(1 + 1.5 * np.log2(1 + zigzag_differences(levels)[1:] / 2))) + 8


def coded_bits(counts: np.ndarray, frequencies: np.ndarray) -> float:
    """Return the bits of symbols with these counts, coded with a table of these frequencies."""
    used = counts > 0
    return float(-(counts[used] * np.log2(frequencies[used] / TOTAL)).sum())


def entropy_bits(counts: np.ndarray) -> float:
    """Return the lower bound of the bits with any table: count times entropy."""
    used = counts[counts > 0]
    return float(-(used * np.log2(used / used.sum())).sum())


def zigzag_differences(levels: np.ndarray) -> np.ndarray:
    """Return the difference of each level from the previous one (0 for the first), mapped to small unsigned numbers.

    Differences are modulo 256; 0, -1, 1, -2, 2, ... become 0, 1, 2, 3, 4, ...
    """
    differences = np.diff(levels.astype(np.int64), prepend=0).astype(np.int8).astype(np.int64)
    return (differences << 1) ^ (differences >> 7)


def levels_of(folded: np.ndarray) -> np.ndarray:
    """Return the levels (alphabet,) uint8 of zigzag_differences."""
    differences = (folded >> 1) ^ -(folded & 1)
    return np.cumsum(differences).astype(np.uint8)
