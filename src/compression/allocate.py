"""Sharing under a budget: bits go to the weights that matter (Choi et al. 2017, https://arxiv.org/abs/1612.01543).

One price of a bit holds for the whole network. Each weight takes the value for which the damage to the network's
output, estimated by its curvature, plus the price of the code's bits is least; so a layer's bits follow from how
sensitive it is, and the price from the size that the file may have. Errors within an output channel are made to cancel
(coordinate descent, as in QuantEase, https://arxiv.org/abs/2309.01885), its bias included.
"""

from __future__ import annotations

from typing import Callable, Mapping, NamedTuple

import numpy as np

from src.compression.share import MAX_BITS, histogram, rounded

_ITERATIONS = 20
# Binary logarithms between which the price of a bit is sought, by halving, for curvatures whose sum is of any order.
_PRICES, _HALVINGS = (-100.0, 60.0), 22
# How near below the target a size has to come, as a share of it, and how often that is tried.
_CLOSE, _MOST_TRIES = 0.004, 5
# What a value takes in the file: two bytes in the codebook and its frequency.
_VALUE_BITS = 20
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


def codebook_at(values: np.ndarray, sizes: np.ndarray, importance: float, price: float, most: int) -> tuple:
    """Return an ascending codebook (K,) and the bits of each code (K,), K at most `most`, and all bits together.

    The bits of a code are its own and its share in those of its value, so that no value is kept for few weights.
    values, sizes: ascending, and how many weights have each. Entropy-constrained Lloyd iterations (Chou et al. 1989)
    from even values, as close as the price asks.
    """
    step = np.sqrt(6 * price / (np.log(2) * importance)) if importance > 0 else np.inf
    count = int(np.clip((values[-1] - values[0]) / step + 2, 2, most)) if step > 0 else most
    centroids = values if len(values) <= count else np.linspace(values[0], values[-1], count)
    bits = np.full(len(centroids), np.log2(len(centroids)))
    for _ in range(_ITERATIONS):
        codes = (importance * (values[:, None] - centroids) ** 2 + price * bits).argmin(1)
        counts = np.bincount(codes, sizes)
        used = counts > 0
        centroids = np.bincount(codes, sizes * values)[used] / counts[used]
        bits = -np.log2(counts[used] / sizes.sum()) + _VALUE_BITS / counts[used]
    return centroids, bits, float((counts[used] * bits).sum())


def descend(
    weights: np.ndarray, codebook: np.ndarray, bits: np.ndarray, curvature: Curvature, price: float, trust: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights (O, I) that have a codebook's values, and what to add to the biases (O,). Zeros remain.

    bits: of each value's code. trust: how much of the curvature's differences within the layer is believed, from 0,
    where all weights of the layer matter alike and each is rounded for itself, to 1.
    """
    matrix = trust * curvature.inputs
    matrix[np.diag_indices(len(matrix))] += (1 - trust) * curvature.inputs.diagonal().mean()
    diagonal = matrix.diagonal()
    rows = trust * curvature.rows + (1 - trust) * curvature.rows.mean()
    errors = np.zeros((len(weights), len(matrix)))  # Of weights and bias, original less new.
    shared = np.zeros_like(weights)
    for _ in range(_SWEEPS):
        for i in range(weights.shape[1]):
            kept = np.flatnonzero(weights[:, i])
            if not len(kept):
                continue
            # What the other errors of the channel make the best value of this weight.
            others = errors[kept] @ matrix[:, i] - errors[kept, i] * diagonal[i]
            wanted = weights[kept, i] + others / diagonal[i]
            importance = rows[kept] * diagonal[i]
            codes = (importance[:, None] * (wanted[:, None] - codebook) ** 2 + price * bits).argmin(1)
            shared[kept, i] = codebook[codes]
            errors[kept, i] = weights[kept, i] - shared[kept, i]
        errors[:, -1] = -(errors[:, :-1] @ matrix[:-1, -1]) / diagonal[-1]  # The bias takes any value.
    return shared, -errors[:, -1]


def allocate(
    parameters: Mapping[str, np.ndarray],
    curvatures: Mapping[str, Curvature],
    target_bytes: int,
    size_of: Callable[[Mapping[str, np.ndarray]], int],
    trust: float = 0.0,
) -> dict[str, np.ndarray]:
    """Return parameters, their convolutions shared, of which a file takes at most target_bytes, as nearly as it comes.

    size_of: returns the bytes of a file of parameters. trust: see descend. Where even the fewest values take more,
    those are returned.
    """
    kept = {name: parameters[name][parameters[name] != 0] for name in curvatures}
    histograms = {name: histogram(weights) for name, weights in kept.items() if len(weights)}
    importances = {name: float(curvatures[name].of_weights().mean()) for name in histograms}

    def codebooks(price: float) -> dict[str, tuple]:
        return {name: codebook_at(*histograms[name], importances[name], price, 1 << MAX_BITS) for name in histograms}

    code_bits = sum(MAX_BITS * len(weights) for weights in kept.values())
    budget, tried = min(code_bits, 8 * target_bytes), []
    for _ in range(_MOST_TRIES):
        price = _price(lambda price: sum(book[2] for book in codebooks(price).values()), budget)
        found = _shared(parameters, curvatures, codebooks(price), price, trust)
        excess = size_of(found) - target_bytes
        tried.append((excess > 0, abs(excess), found))
        # The rest of the file, positions and tables, hardly depends on the price.
        corrected = int(np.clip(budget - 8 * (excess + target_bytes * _CLOSE / 2), 0, code_bits))
        if -_CLOSE * target_bytes <= excess <= 0 or corrected == budget:
            break
        budget = corrected
    return min(tried, key=lambda attempt: attempt[:2])[2]


def _price(bits_at: Callable[[float], float], budget: float) -> float:
    """Return the lowest price of a bit at which all codes take at most a budget."""
    low, high = _PRICES
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if bits_at(2.0**middle) > budget else (low, middle)
    return 2.0**high


def _shared(
    parameters: Mapping[str, np.ndarray],
    curvatures: Mapping[str, Curvature],
    codebooks: Mapping[str, tuple],
    price: float,
    trust: float,
) -> dict[str, np.ndarray]:
    shared = dict(parameters)
    for name, (codebook, bits, _) in codebooks.items():
        array, bias = parameters[name], name.removesuffix("weight") + "bias"
        weights = array.reshape(len(array), -1).astype(np.float64)
        codebook = rounded(codebook.astype(np.float32))
        codebook[codebook == 0] = np.finfo(np.float32).tiny  # A zero would be read as a pruned weight.
        new, shift = descend(weights, codebook, bits, curvatures[name], price, trust)
        shared[name] = new.reshape(array.shape).astype(np.float32)
        shared[bias] = (parameters[bias] + shift).astype(np.float32)
    return shared
