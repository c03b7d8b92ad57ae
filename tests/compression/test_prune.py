from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from src.compression.prune import mask_by_sparsity, mask_by_tolerance, prune

weights = hnp.arrays(np.float32, hnp.array_shapes(max_dims=4), elements=st.floats(-8, 8, width=32))


@settings(max_examples=80, deadline=None)
@given(weights, st.floats(0, 1))
def test_the_smallest_weights_go_as_many_as_asked(drawn, sparsity):
    kept = mask_by_sparsity(drawn, sparsity)
    assert (~kept).sum() == max(round(sparsity * drawn.size), (drawn == 0).sum())
    if kept.any() and not kept.all():
        assert np.abs(drawn[~kept]).max() <= np.abs(drawn[kept]).min()


@settings(max_examples=80, deadline=None)
@given(weights, st.floats(0, 1))
def test_what_goes_is_within_the_tolerance_and_one_more_would_not_be(drawn, tolerance):
    exact = drawn.astype(np.float64)
    kept = mask_by_tolerance(drawn, tolerance)
    allowed = tolerance * np.linalg.norm(exact)
    assert np.linalg.norm(exact[~kept]) <= allowed * (1 + 1e-9)
    if kept.any():
        more = np.append(exact[~kept], np.abs(exact[kept]).min())
        assert np.linalg.norm(more) >= allowed * (1 - 1e-9)


def test_pruned_weights_are_exact_zeros_and_the_others_untouched():
    drawn = np.random.RandomState(0).standard_normal((8, 8, 3, 3)).astype(np.float32)
    pruned = prune(drawn, sparsity=0.25)
    assert (pruned == 0).mean() == 0.25
    np.testing.assert_array_equal(pruned[pruned != 0], drawn[pruned != 0])
    np.testing.assert_array_equal(prune(drawn), drawn)
    assert prune(drawn) is not drawn


def test_tolerance_prunes_more_where_few_weights_hold_the_norm():
    alike = np.ones(100, np.float32)
    few_large = np.where(np.arange(100) < 10, 10, 0.01).astype(np.float32)
    assert (prune(few_large, tolerance=0.01) == 0).sum() == 90
    assert (prune(alike, tolerance=0.01) == 0).sum() == pytest.approx(0)
