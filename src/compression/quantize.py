"""Quantize weights to a codebook by k-means (Deep Compression, https://arxiv.org/abs/1510.00149, section 3).

Exact zeros are pruned weights: they belong to no cluster and stay zero, so that b bits stand for 2^b values besides
zero.
"""

from __future__ import annotations

import numpy as np

MAX_BITS = 8
_MAX_ITERATIONS = 300
# With up to so many distinct values the optimal start is exact; more are collected in this many bins.
_BINS = 512


def quantize(weights: np.ndarray, bits: int, start: str = "optimal", seed: int = 1) -> np.ndarray:
    """Return float32 weights of the same shape with at most 2^bits distinct values besides exact zero.

    Weights that have no more distinct values are returned unchanged.
    """
    kept = weights != 0
    codebook, indices = cluster(weights[kept], 1 << bits, start, seed)
    quantized = np.zeros_like(weights)
    quantized[kept] = codebook[indices]
    return quantized


def round_bfloat16(vector: np.ndarray) -> np.ndarray:
    """Return float32 values rounded to the 8 significant bits of bfloat16, which a file holds in two bytes each.

    Used for biases and codebooks: it changes them by at most 0.2%, where quantization changes weights by percents.
    """
    bits = np.ascontiguousarray(vector).view(np.uint32).astype(np.uint64)
    # To the nearest, halves to the even one.
    nearest = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return nearest.astype(np.uint32).view(np.float32).reshape(vector.shape)


def cluster(values: np.ndarray, count: int, start: str = "optimal", seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return an ascending codebook (<= count,) float32 and the index of the nearest entry for each value (N,).

    Lloyd's algorithm, which in one dimension needs only the sorted values and their running sums: a cluster is a
    range between the midpoints of neighbouring centroids. Each centroid is the mean of its cluster; empty clusters
    are dropped. A value halfway between two centroids belongs to the lower one.
    """
    distinct = np.unique(values)
    if len(distinct) <= count:
        return distinct.astype(np.float32), np.searchsorted(distinct, values)
    ordered = np.sort(values.astype(np.float64))
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centroids = starting_centroids(ordered, count, start, seed)
    edges = None
    for _ in range(_MAX_ITERATIONS):
        new_edges = np.searchsorted(ordered, (centroids[1:] + centroids[:-1]) / 2, side="right")
        new_edges = np.concatenate([[0], new_edges, [len(ordered)]])
        if edges is not None and np.array_equal(edges, new_edges):
            break
        sizes = np.diff(new_edges)
        centroids = (np.diff(sums[new_edges])[sizes > 0]) / sizes[sizes > 0]
        edges = np.unique(new_edges)
    # Rounding may merge two centroids, or move a value that lies halfway to the other one.
    codebook = centroids.astype(np.float32)
    codebook[codebook == 0] = np.finfo(np.float32).tiny  # A zero would be read as a pruned weight.
    codebook = np.unique(codebook)
    middles = (codebook[1:].astype(np.float64) + codebook[:-1]) / 2
    return codebook, np.searchsorted(middles, values, side="left")


def starting_centroids(ordered: np.ndarray, count: int, start: str, seed: int = 1) -> np.ndarray:
    """Return at most `count` ascending initial centroids for sorted values.

    optimal: with the least squared error; linear: evenly from the smallest to the largest value, which keeps the
    rare large weights (the paper's choice); density: evenly over the values' distribution; random: drawn from them.
    """
    if start == "optimal":
        return _optimal_centroids(ordered, count)
    if start == "linear":
        return np.linspace(ordered[0], ordered[-1], count)
    if start == "density":
        return np.unique(np.quantile(ordered, (np.arange(count) + 0.5) / count))
    return np.sort(np.random.RandomState(seed).choice(np.unique(ordered), count, replace=False))


def _optimal_centroids(ordered: np.ndarray, count: int) -> np.ndarray:
    """Return the centroids of least squared error, by dynamic programming over the ends of the clusters.

    In one dimension the best clusters are ranges, and the best k of the first n values are the best k - 1 of the first
    m and the range from m to n, for some m.
    """
    values, sizes = histogram(ordered)
    count = min(count, len(values))
    size, total, square = (np.concatenate([[0.0], np.cumsum(sizes * values**i)]) for i in range(3))
    n = len(values) + 1
    error = np.full((n, n), np.inf)  # Of the range from row to column as one cluster.
    begin, end = np.triu_indices(n, 1)
    error[begin, end] = (square[end] - square[begin]) - (total[end] - total[begin]) ** 2 / (size[end] - size[begin])
    least, cuts = error[0], []
    for _ in range(count - 1):
        candidates = least[:, None] + error
        cuts.append(candidates.argmin(0))
        least = candidates.min(0)
    ends = [n - 1]
    for cut in reversed(cuts):
        ends.append(cut[ends[-1]])
    ends = np.array([0, *ends[::-1]])
    return np.diff(total[ends]) / np.diff(size[ends])


def histogram(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ascending values (<= 512,) and their counts; many distinct values are replaced by the means of bins."""
    values, sizes = np.unique(weights, return_counts=True)
    if len(values) <= _BINS:
        return values.astype(np.float64), sizes
    # Half the bins evenly over the range and half over the distribution: neither tails nor the middle are coarse.
    even = np.linspace(values[0], values[-1], _BINS // 2)
    edges = np.union1d(even, np.quantile(weights, np.linspace(0, 1, _BINS // 2)))
    bins = np.searchsorted(edges, weights)
    sizes = np.bincount(bins)
    means = np.bincount(bins, weights) / np.maximum(sizes, 1)
    return means[sizes > 0], sizes[sizes > 0]
