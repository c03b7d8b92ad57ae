from __future__ import annotations

import numpy as np
import pytest

from src.compression.allocate import Curvature, allocate, codebook_at, descend
from src.compression.prune import prune, sparsities_for
from src.compression.quantize import histogram
from src.sqz.fileformat import encode


@pytest.fixture(scope="module")
def weights():
    return np.random.RandomState(0).laplace(size=(16, 24)).astype(np.float32)


def curvature_of(inputs: np.ndarray, outputs: int, row: float = 1.0) -> Curvature:
    """Return the curvature of a layer whose output error is what counts, for inputs (N, I)."""
    with_bias = np.concatenate([inputs, np.ones((len(inputs), 1))], 1)
    matrix = with_bias.T @ with_bias
    return Curvature(np.full(outputs, row), matrix / np.trace(matrix))


def test_a_higher_price_gives_fewer_bits_and_values_and_more_error(weights):
    found = []
    for price in (1e-4, 1e-2, 1.0):
        codebook, bits, total = codebook_at(*histogram(weights), 1.0, price, 256)
        indices = ((weights.ravel()[:, None] - codebook) ** 2 + price * bits).argmin(1)
        found.append((len(codebook), total, np.square(codebook[indices] - weights.ravel()).mean()))
        assert (np.diff(codebook) > 0).all() and np.sum(2.0**-bits) < 1
    (values, bits, errors) = zip(*found)
    assert values[0] > values[1] > values[2] and bits[0] > bits[1] > bits[2] and errors[0] < errors[1] < errors[2]


def test_where_bits_are_free_a_codebook_with_room_has_every_value_and_counts_20_bits_for_each():
    values = np.float32([-2, -1, 0.5, 3]).repeat([5, 9, 7, 2])
    codebook, _, total = codebook_at(*histogram(values), 1.0, 0.0, 4)
    np.testing.assert_array_equal(codebook, [-2, -1, 0.5, 3])
    assert total == pytest.approx(4 * 20 - sum(n * np.log2(n / 23) for n in (5, 9, 7, 2)))


def test_rounding_together_spares_the_output_and_keeps_zeros(weights):
    random = np.random.RandomState(1)
    # Inputs that go together, as channels of an image do, and are not around zero.
    inputs = random.standard_normal((200, 4)) @ random.standard_normal((4, 24)) + 1
    pruned = prune(weights, sparsity=0.3).astype(np.float64)
    codebook, bits, _ = codebook_at(*histogram(pruned[pruned != 0]), 1.0, 0.1, 8)
    errors = []
    for trust in (0.0, 1.0):
        quantized, shift = descend(pruned, codebook, bits, curvature_of(inputs, 16), 0.0, trust)
        np.testing.assert_array_equal(quantized == 0, pruned == 0)
        assert np.isin(quantized[quantized != 0], codebook).all()
        errors.append(np.square(inputs @ (pruned - quantized).T - shift).mean())
    assert errors[1] < 0.5 * errors[0]


def test_each_weight_for_itself_takes_the_nearest_value_where_bits_are_free(weights):
    codebook, bits, _ = codebook_at(*histogram(weights), 1.0, 0.05, 16)
    diagonal = Curvature(np.ones(16), np.eye(25) / 25)
    quantized, shift = descend(weights.astype(np.float64), codebook, bits, diagonal, 0.0, 0.0)
    nearest = codebook[np.abs(weights[..., None] - codebook).argmin(-1)]
    np.testing.assert_array_equal(quantized, nearest)
    np.testing.assert_array_equal(shift, 0)


@pytest.fixture(scope="module")
def network():
    """Two layers alike, of which the first matters ten thousand times more."""
    random = np.random.RandomState(2)
    parameters, curvatures = {}, {}
    for name, row in (("a", 1e4), ("b", 1.0)):
        parameters[f"{name}.weight"] = random.laplace(size=(64, 32, 3, 3)).astype(np.float32)
        parameters[f"{name}.bias"] = random.standard_normal(64).astype(np.float32)
        curvatures[f"{name}.weight"] = Curvature(np.full(64, row), np.eye(289) / 289)
    return parameters, curvatures


def test_a_target_just_below_the_largest_file_is_reached(network):
    parameters, curvatures = network
    # Outliers, so that even a free codebook uses far fewer bits than it may.
    skewed = {name: array**3 if array.ndim == 4 else array for name, array in parameters.items()}

    def size_of(found):
        return len(encode(found))

    largest = size_of(allocate(skewed, curvatures, 10**6, size_of))
    for target in (largest, largest - 28, largest - largest // 100):
        assert 0.995 * target < size_of(allocate(skewed, curvatures, target, size_of)) <= target


def test_a_file_comes_close_below_its_target_and_bits_go_where_they_matter(network):
    parameters, curvatures = network
    target = 24_000
    found = allocate(parameters, curvatures, target, lambda p: len(encode(p)))
    assert 0.97 * target < len(encode(found)) <= target
    values = {name: len(np.unique(found[f"{name}.weight"])) for name in "ab"}
    assert values["a"] > 4 * values["b"]


def test_an_impossible_target_gives_the_smallest_that_there_is(network):
    parameters, curvatures = network
    found = allocate(parameters, curvatures, 100, lambda p: len(encode(p)))
    assert all(len(np.unique(found[f"{name}.weight"])) <= 2 for name in "ab")


def test_sparsities_follow_from_the_target_and_spare_the_layer_that_matters(network):
    parameters, curvatures = network
    importances = {name: float(c.of_weights().mean()) for name, c in curvatures.items()}
    small, large = (sparsities_for(parameters, importances, target, 4) for target in (12_000, 20_000))
    assert small["a.weight"] < small["b.weight"] and large["b.weight"] < small["b.weight"]
    sizes = sum(p.size for p in parameters.values())
    assert all(0 <= s <= 0.95 for s in small.values()) and sizes
