from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from src.compression.quantize import cluster, quantize, round_bfloat16, starting_centroids

STARTS = ("optimal", "linear", "density", "random")
weights = hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-8, 8, width=32))


@settings(max_examples=40, deadline=None)
@given(weights, st.integers(1, 8), st.sampled_from(STARTS))
def test_few_values_zeros_kept_and_no_weight_made_zero(drawn, bits, start):
    quantized = quantize(drawn, bits, start)
    assert quantized.dtype == np.float32 and quantized.shape == drawn.shape
    np.testing.assert_array_equal(quantized == 0, drawn == 0)
    assert len(np.unique(quantized[quantized != 0])) <= 2**bits


@settings(max_examples=40, deadline=None)
@given(weights.filter(lambda w: (w != 0).all()), st.sampled_from(STARTS))
def test_each_weight_takes_the_nearest_centroid_and_each_centroid_is_the_mean_of_its_weights(drawn, start):
    codebook, indices = cluster(drawn, 4, start)
    distances = np.abs(drawn.astype(np.float64)[:, None] - codebook)
    np.testing.assert_allclose(distances[np.arange(len(drawn)), indices], distances.min(1), atol=1e-6)
    for index in np.unique(indices):
        assert codebook[index] == pytest.approx(drawn[indices == index].astype(np.float64).mean(), abs=1e-5)


def test_weights_with_few_values_already_are_unchanged():
    drawn = np.random.RandomState(0).choice(np.float32([-0.5, 0, 0.25, 1]), (8, 4, 3, 3))
    np.testing.assert_array_equal(quantize(drawn, 2), drawn)


def test_separate_heaps_of_weights_are_found():
    heaps = np.float32([-3, -1, 1, 2])
    drawn = (heaps[:, None] + np.linspace(-0.1, 0.1, 101, dtype=np.float32)).ravel()
    codebook, _ = cluster(drawn, 4)
    np.testing.assert_allclose(codebook, heaps, atol=1e-6)


def test_starts_are_even_over_the_range_over_the_weights_and_drawn_from_them():
    ordered = np.sort(np.random.RandomState(0).standard_normal(1000))
    np.testing.assert_allclose(np.diff(starting_centroids(ordered, 5, "linear")), (ordered[-1] - ordered[0]) / 4)
    density = starting_centroids(ordered, 4, "density")
    np.testing.assert_allclose([np.mean(ordered < c) for c in density], [0.125, 0.375, 0.625, 0.875], atol=0.002)
    random = starting_centroids(ordered, 5, "random", seed=3)
    assert np.isin(random, ordered).all() and (np.diff(random) > 0).all()
    np.testing.assert_array_equal(random, starting_centroids(ordered, 5, "random", seed=3))


def test_quantizing_again_changes_nothing():
    drawn = np.random.RandomState(0).standard_normal((16, 16, 3, 3)).astype(np.float32)
    once = quantize(drawn, 5)
    np.testing.assert_array_equal(quantize(once, 5), once)


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float32, 20, elements=st.floats(-(2.0**60), 2.0**60, width=32)))
def test_rounded_numbers_have_eight_significant_bits(drawn):
    found = round_bfloat16(drawn)
    assert not (found.view(np.uint32) & 0xFFFF).any()
    normal = np.abs(drawn) > 2.0**-120
    np.testing.assert_allclose(found[normal], drawn[normal], rtol=2.0**-8)
    np.testing.assert_array_equal(round_bfloat16(found), found)
