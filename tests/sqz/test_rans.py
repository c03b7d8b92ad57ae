from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.sqz.rans import LOWEST_STATE, TOTAL, Decoder, FormatError, Table, encode
from src.sqz.tables import entropy_bits, fit_levels, frequencies_of


def table_for(symbols, alphabet):
    return Table(frequencies_of(fit_levels(np.bincount(symbols, minlength=alphabet))))


segments = st.lists(
    st.integers(1, 512).flatmap(lambda a: st.tuples(st.just(a), st.lists(st.integers(0, a - 1), min_size=1))),
    max_size=5,
)


@settings(max_examples=50, deadline=None)
@given(segments, st.sampled_from([1, 2, 8, 64]))
def test_segments_come_back_in_their_order(drawn, lanes):
    coded = [(np.array(symbols), table_for(np.array(symbols), alphabet)) for alphabet, symbols in drawn]
    decoder = Decoder(*encode(coded, lanes))
    for symbols, table in coded:
        np.testing.assert_array_equal(decoder.segment(len(symbols), table), symbols)
    decoder.finish()


@pytest.mark.parametrize("shape", [0.1, 1.0, 10.0])
def test_words_take_within_two_percent_of_the_entropy(shape):
    random = np.random.RandomState(0)
    symbols = random.choice(256, 50_000, p=random.dirichlet(np.full(256, shape)))
    states, words = encode([(symbols, table_for(symbols, 256))], 16)
    bound = entropy_bits(np.bincount(symbols)) / 8
    assert bound * 0.999 < states.nbytes + words.nbytes < bound * 1.02


def test_a_single_symbol_takes_no_words():
    table = Table(np.array([0, TOTAL]))
    states, words = encode([(np.ones(10_000, int), table)], 4)
    assert words.size == 0 and (states == LOWEST_STATE).all()
    np.testing.assert_array_equal(Decoder(states, words).segment(10_000, table), 1)


def test_missing_words_spare_words_and_impossible_states_are_refused():
    symbols = np.arange(1000) % 7
    table = table_for(symbols, 7)
    states, words = encode([(symbols, table)], 4)
    with pytest.raises(FormatError, match="end too early"):
        Decoder(states, words[:-1]).segment(len(symbols), table)
    spare = Decoder(states, np.append(words, np.uint16(1)))
    spare.segment(len(symbols), table)
    with pytest.raises(FormatError, match="do not end where"):
        spare.finish()
    with pytest.raises(FormatError, match="out of range"):
        Decoder(states * 0, words)


def test_a_symbol_without_frequency_cannot_be_encoded():
    with pytest.raises(ValueError, match="frequency 0"):
        encode([(np.array([0]), Table(np.array([0, TOTAL])))], 1)
