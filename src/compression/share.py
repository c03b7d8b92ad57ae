"""Sharing of weights: k-means gives a layer a few values, and each weight takes the nearest (Deep Compression, 3).

Exact zeros are pruned weights and stay apart: they are in no cluster and remain zero, so that b bits stand for 2^b
values besides zero.
"""

from __future__ import annotations

import numpy as np

STARTS = ("optimal", "linear", "density", "random")
MAX_BITS = 8
_MAX_ITERATIONS = 300
# Up to so many different values the optimal start is exact; more of them are all_gather in so many bins.
_BINS = 512


def share(weights: np.ndarray, bits: int, start: str = "optimal", seed: int = 1) -> np.ndarray:
    """Return float32 weights of the same shape that take at most 2^bits values besides exact zero.

    Those with no more values than that already are returned unchanged.
    """
    kept = weights != 0
    codebook, codes = cluster(weights[kept], 1 << bits, start, seed)
    shared = np.zeros_like(weights)
    shared[kept] = codebook[codes]
    return shared


def rounded(vector: np.ndarray) -> np.ndarray:
    """Return float32 numbers rounded to 8 significant bits (bfloat16), of which a file holds two bytes instead of four.

    For biases: by at most 0.2%, where sharing changes weights by several.
    """
    bits = np.ascontiguousarray(vector).view(np.uint32).astype(np.uint64)
    # To the nearest, halves to the even one.
    nearest = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return nearest.astype(np.uint32).view(np.float32).reshape(vector.shape)


def cluster(values: np.ndarray, count: int, start: str = "optimal", seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return the codebook (<= count,) float32, ascending, and for each value (N,) the index of its nearest entry.

    Lloyd's algorithm, which on a line needs no more than the sorted values and their running sums: a cluster is a
    range between the midpoints of neighbouring centroids. Each centroid is the mean of its cluster; clusters that run
    empty are dropped. Of values halfway between two centroids, the lower one takes them.
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
    # Rounded, two centroids may be one, and a value that lies halfway may change sides.
    codebook = centroids.astype(np.float32)
    codebook[codebook == 0] = np.finfo(np.float32).tiny  # A zero would be read as a pruned weight.
    codebook = np.unique(codebook)
    middles = (codebook[1:].astype(np.float64) + codebook[:-1]) / 2
    return codebook, np.searchsorted(middles, values, side="left")


def starting_centroids(ordered: np.ndarray, count: int, start: str, seed: int = 1) -> np.ndarray:
    """Return `count` ascending centroids, or fewer, to begin with, for sorted values.

    optimal: with the least squared error of all; linear: evenly from the least to the greatest value, which keeps the
    rare large weights (the paper's choice); density: evenly over the values' distribution; random: some of the values.
    """
    if start == "optimal":
        return _optimal_centroids(ordered, count)
    if start == "linear":
        return np.linspace(ordered[0], ordered[-1], count)
    if start == "density":
        return np.unique(np.quantile(ordered, (np.arange(count) + 0.5) / count))
    return np.sort(np.random.RandomState(seed).choice(np.unique(ordered), count, replace=False))


def _optimal_centroids(ordered: np.ndarray, count: int) -> np.ndarray:
    """Return the centroids of least squared error, by dynamic programming over where each cluster ends.

    On a line the best clusters are ranges, and the best k of the first n values are the best k - 1 of the first m and
    the range from m to n, for some m.
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
    """Return ascending values (<= 512,) and how many weights have each; of many different ones, the means of bins."""
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
