"""Quantize under a byte budget: bits go to sensitive weights (Choi et al. 2017, https://arxiv.org/abs/1612.01543).

One price of a bit, the Lagrange multiplier of the file's size, holds for the whole network. Each weight takes the
codebook entry with the least sum of the damage to the network's output, estimated by its curvature, and the price of
the index's bits. So the bits of a layer follow from its sensitivity, and the price follows from the allowed file size.
Errors within an output channel are made to cancel (coordinate descent, as in QuantEase,
https://arxiv.org/abs/2309.01885), its bias included.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Callable, Mapping, NamedTuple

import numpy as np

from src.compression.quantize import MAX_BITS, histogram, round_bfloat16

_ITERATIONS = 20
# Binary logarithms between which the price of a bit is sought, by bisection, for curvatures whose sum is of any order.
_FREE, _DEAREST, _HALVINGS = -100.0, 60.0, 22
# How near below the target a file's size has to come, as a fraction of it, and how many files are tried for that.
_CLOSE, _MOST_FILES = 0.004, 12
# What a codebook entry takes in the file: two bytes and its frequency.
_ENTRY_BITS = 20
_SWEEPS = 2  # Over the weights of a channel.


class Curvature(NamedTuple):
    """The Fisher matrix of an output channel o of I inputs (kernel included) and its bias: rows[o] * inputs.

    rows: (O,). inputs: (I + 1, I + 1), the bias last, with trace 1.
    """

    rows: np.ndarray
    inputs: np.ndarray

    def of_weights(self) -> np.ndarray:
        """Return the diagonal for each weight, (O, I)."""
        return self.rows[:, None] * self.inputs.diagonal()[:-1]


class Codebook(NamedTuple):
    """The codebook of a convolution at some price of a bit.

    values: (K,), ascending. bits: (K,) of the index of each value. total_bits: of all indices of the layer.
    """

    values: np.ndarray
    bits: np.ndarray
    total_bits: float


def codebook_at(values: np.ndarray, sizes: np.ndarray, importance: float, price: float, most: int) -> Codebook:
    """Return the codebook of at most `most` values that is best at a price of a bit.

    The bits of an index are its own and its part of the bits of its codebook entry, so that no entry is kept for few
    weights. values, sizes: distinct weights, ascending, and their counts. Entropy-constrained Lloyd iterations (Chou et
    al. 1989) from evenly spaced values, as dense as the price allows.
    """
    step = np.sqrt(6 * price / (np.log(2) * importance)) if importance > 0 else np.inf
    count = int(np.clip((values[-1] - values[0]) / step + 2, 2, most)) if step > 0 else most
    centroids = values if len(values) <= count else np.linspace(values[0], values[-1], count)
    bits = np.full(len(centroids), np.log2(len(centroids)))
    for _ in range(_ITERATIONS):
        indices = (importance * (values[:, None] - centroids) ** 2 + price * bits).argmin(1)
        counts = np.bincount(indices, sizes)
        used = counts > 0
        centroids = np.bincount(indices, sizes * values)[used] / counts[used]
        bits = -np.log2(counts[used] / sizes.sum()) + _ENTRY_BITS / counts[used]
    return Codebook(centroids, bits, float((counts[used] * bits).sum()))


def descend(
    weights: np.ndarray, codebook: np.ndarray, bits: np.ndarray, curvature: Curvature, price: float, trust: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights (O, I) that take a codebook's values, and the correction of the biases (O,). Zeros stay zero.

    bits: of the index of each value. trust: how far the curvature's differences within the layer are believed, from 0,
    where all weights of the layer matter alike and each is rounded for itself, to 1.
    """
    matrix = trust * curvature.inputs
    matrix[np.diag_indices(len(matrix))] += (1 - trust) * curvature.inputs.diagonal().mean()
    diagonal = matrix.diagonal()
    rows = trust * curvature.rows + (1 - trust) * curvature.rows.mean()
    errors = np.zeros((len(weights), len(matrix)))  # Of weights and bias, original minus quantized.
    quantized = np.zeros_like(weights)
    for _ in range(_SWEEPS):
        for i in range(weights.shape[1]):
            kept = np.flatnonzero(weights[:, i])
            if not len(kept):
                continue
            # The value of this weight that would cancel the other errors of the channel.
            others = errors[kept] @ matrix[:, i] - errors[kept, i] * diagonal[i]
            wanted = weights[kept, i] + others / diagonal[i]
            importance = rows[kept] * diagonal[i]
            indices = (importance[:, None] * (wanted[:, None] - codebook) ** 2 + price * bits).argmin(1)
            quantized[kept, i] = codebook[indices]
            errors[kept, i] = weights[kept, i] - quantized[kept, i]
        errors[:, -1] = -(errors[:, :-1] @ matrix[:-1, -1]) / diagonal[-1]  # The bias takes any value.
    return quantized, -errors[:, -1]


def allocate(
    parameters: Mapping[str, np.ndarray],
    curvatures: Mapping[str, Curvature],
    target_bytes: int,
    size_of: Callable[[Mapping[str, np.ndarray]], int],
    trust: float = 0.0,
) -> dict[str, np.ndarray]:
    """Return parameters with quantized convolutions whose file is at most target_bytes, and close below that.

    size_of: returns the bytes of a file of parameters. trust: see descend. When the smallest codebooks give a larger
    file, these are returned; when the largest give a smaller one, those.
    """
    kept = {name: parameters[name][parameters[name] != 0] for name in curvatures}
    histograms = {name: histogram(weights) for name, weights in kept.items() if len(weights)}
    importances = {name: float(curvatures[name].of_weights().mean()) for name in histograms}

    def codebooks(log_price: float) -> dict[str, Codebook]:
        price = 2.0**log_price
        return {name: codebook_at(*histograms[name], importances[name], price, 1 << MAX_BITS) for name in histograms}

    def index_bits(log_price: float) -> float:
        return sum(book.total_bits for book in codebooks(log_price).values())

    files: dict[float, tuple[int, dict[str, np.ndarray]]] = {}  # By the price of a bit that gave them.
    low, high = _FREE, _DEAREST  # A larger file than the target's, and one that fits, as far as they were tried.
    log_price = _price(index_bits, 8 * target_bytes)
    for _ in range(_MOST_FILES):
        books = codebooks(log_price)
        found = _quantized(parameters, curvatures, books, 2.0**log_price, trust)
        size = size_of(found)
        files[log_price] = size, found
        fits = size <= target_bytes
        if (fits and size >= (1 - _CLOSE) * target_bytes) or log_price == (_FREE if fits else _DEAREST):
            break
        low, high = (low, log_price) if fits else (log_price, high)
        # The rest of the file, positions and tables, hardly depends on the price.
        used = sum(book.total_bits for book in books.values())
        log_price = _price(index_bits, used + 8 * ((1 - _CLOSE / 2) * target_bytes - size))
        if log_price in files or not low <= log_price <= high:
            log_price = (low + high) / 2
    fitting = [file for file in files.values() if file[0] <= target_bytes]
    best = max(fitting, key=itemgetter(0)) if fitting else min(files.values(), key=itemgetter(0))
    return best[1]


def _price(bits_at: Callable[[float], float], budget: float) -> float:
    """Return the binary logarithm of the lowest price of a bit at which all indices take at most a budget of bits."""
    low, high = _FREE, _DEAREST
    if bits_at(low) <= budget:
        return low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if bits_at(middle) > budget else (low, middle)
    return high


def _quantized(
    parameters: Mapping[str, np.ndarray],
    curvatures: Mapping[str, Curvature],
    codebooks: Mapping[str, Codebook],
    price: float,
    trust: float,
) -> dict[str, np.ndarray]:
    quantized = dict(parameters)
    for name, book in codebooks.items():
        array, bias = parameters[name], name.removesuffix("weight") + "bias"
        weights = array.reshape(len(array), -1).astype(np.float64)
        values = round_bfloat16(book.values.astype(np.float32))
        values[values == 0] = np.finfo(np.float32).tiny  # A zero would be read as a pruned weight.
        new, shift = descend(weights, values, book.bits, curvatures[name], price, trust)
        quantized[name] = new.reshape(array.shape).astype(np.float32)
        quantized[bias] = (parameters[bias] + shift).astype(np.float32)
    return quantized
