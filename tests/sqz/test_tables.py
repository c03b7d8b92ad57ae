from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.sqz.rans import TOTAL, FormatError
from src.sqz.tables import (
    coded_bits,
    entropy_bits,
    fit_levels,
    frequencies_of,
    levels_of,
    zigzag_differences,
)

levels = st.lists(st.integers(0, 255), min_size=1, max_size=1024).filter(any).map(lambda v: np.array(v, np.uint8))


@settings(max_examples=80, deadline=None)
@given(levels)
def test_frequencies_sum_to_the_total_and_vanish_only_at_level_zero(drawn):
    frequencies = frequencies_of(drawn)
    assert frequencies.sum() == TOTAL
    np.testing.assert_array_equal(frequencies > 0, drawn > 0)


@settings(max_examples=80, deadline=None)
@given(levels)
def test_levels_come_back_from_their_differences(drawn):
    folded = zigzag_differences(drawn)
    assert folded.min() >= 0 and folded.max() <= 255
    np.testing.assert_array_equal(levels_of(folded), drawn)


def test_small_differences_of_either_sign_are_small_numbers():
    np.testing.assert_array_equal(zigzag_differences(np.array([0, 255, 0, 254, 0])), [0, 1, 2, 3, 4])


def test_a_table_without_symbols_is_refused():
    with pytest.raises(FormatError, match="no symbols"):
        frequencies_of(np.zeros(4, np.uint8))


def test_fitted_levels_cost_little_more_than_the_entropy():
    counts = np.random.RandomState(0).poisson(400 * np.exp(-(np.linspace(-3, 3, 256) ** 2) / 2))
    bits = coded_bits(counts, frequencies_of(fit_levels(counts)))
    assert entropy_bits(counts) <= bits < 1.005 * entropy_bits(counts)


def test_every_symbol_that_occurs_gets_a_frequency():
    counts = np.array([10**6, 1, 0, 1])
    np.testing.assert_array_equal(frequencies_of(fit_levels(counts)) > 0, counts > 0)


def test_entropy_of_known_counts():
    assert entropy_bits(np.array([4, 4])) == 8 and entropy_bits(np.array([8, 0])) == 0
    assert entropy_bits(np.array([2, 1, 1])) == pytest.approx(6)
