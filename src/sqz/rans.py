"""Code symbols by range asymmetric numeral systems (Duda 2013, https://arxiv.org/abs/1311.2540) in many lanes.

The coder takes given frequencies and comes within a thousandth of the entropy. Symbol t of a segment belongs to lane
t modulo the number of lanes; the lanes have a state each and share one sequence of 16-bit words. So numpy decodes a
symbol of every lane at once, while a decoder in C goes through the symbols one by one, with a few lines of integer
arithmetic (docs/FORMAT.md, section 5).
"""

from __future__ import annotations

from typing import Sequence

import numpy as np

# Frequencies of a table sum to 2^14: fine enough for 512 symbols, and the table of slots fits a small device.
PRECISION = 14
TOTAL = 1 << PRECISION
# States lie in [2^16, 2^32), so that one 16-bit word always brings a state back.
LOWEST_STATE = 1 << 16
MAX_SYMBOLS_A_LANE = 1 << 16  # Of a segment.
_SLOTS = np.arange(TOTAL)


class FormatError(ValueError):
    """Invalid coded data."""


class Table:
    """Frequency table of symbols, (alphabet,) int with sum TOTAL, prepared for decoding."""

    def __init__(self, frequencies: np.ndarray):
        self.frequencies = frequencies.astype(np.int64)
        self.starts = np.cumsum(self.frequencies) - self.frequencies
        # For each of the TOTAL slots: the symbol, its frequency, and the slot's number within the symbol.
        self.symbol_of_slot = np.arange(len(frequencies), dtype=np.uint16).repeat(self.frequencies)
        self.frequency_of_slot = self.frequencies.repeat(self.frequencies)
        self.offset_of_slot = _SLOTS - self.starts.repeat(self.frequencies)


class Decoder:
    """Decoder of segments of symbols, in the order of their encoding.

    states: one per lane. words: uint16, one sequence for all lanes.
    """

    def __init__(self, states: np.ndarray, words: np.ndarray):
        self._states = states.astype(np.int64)
        self._words = words.astype(np.int64)
        self._position = 0
        if (self._states < LOWEST_STATE).any():
            raise FormatError("a coder state is out of range")

    def segment(self, length: int, table: Table) -> np.ndarray:
        """Return the next `length` symbols, encoded with `table`."""
        lanes = len(self._states)
        if length > MAX_SYMBOLS_A_LANE * lanes:  # It would take hours.
            raise FormatError(f"it claims {length:,} symbols in {lanes} lanes")
        slots = np.empty(length, np.int64)
        for begin in range(0, length, lanes):
            slot = slots[begin : begin + lanes]
            self._step(self._states[: len(slot)], slot, table)
        return table.symbol_of_slot[slots]

    def _step(self, states: np.ndarray, slot: np.ndarray, table: Table) -> None:
        """Decode a symbol in each of the first lanes: write the slots and advance the states."""
        np.bitwise_and(states, TOTAL - 1, out=slot)
        states >>= PRECISION
        states *= table.frequency_of_slot.take(slot)
        states += table.offset_of_slot.take(slot)
        short = (states < LOWEST_STATE).nonzero()[0]
        if len(short):
            end = self._position + len(short)
            if end > len(self._words):
                raise FormatError("the coded words end too early")
            states[short] = (states.take(short) << 16) | self._words[self._position : end]
            self._position = end

    def finish(self) -> None:
        """Raise FormatError unless all words are used and all lanes are back at the encoder's first state."""
        if self._position != len(self._words) or (self._states != LOWEST_STATE).any():
            raise FormatError("the coded words do not end where the symbols do")


def encode(segments: Sequence[tuple[np.ndarray, Table]], lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return states (lanes,) uint32 and words uint16 from which a Decoder reads these (symbols, table).

    An rANS encoder runs backwards, from the last symbol to the first.
    """
    states = np.full(lanes, LOWEST_STATE, np.int64)
    chunks = []
    for symbols, table in reversed(segments):
        frequencies, starts = table.frequencies[symbols], table.starts[symbols]
        if len(symbols) and not frequencies.all():
            raise ValueError("a symbol has frequency 0 in its table")
        for begin in reversed(range(0, len(symbols), lanes)):
            frequency, start = frequencies[begin : begin + lanes], starts[begin : begin + lanes]
            active = states[: len(frequency)]
            full = (active >= frequency << (32 - PRECISION)).nonzero()[0]
            if len(full):
                chunks.append(active[full].astype(np.uint16))  # The low 16 bits.
                active[full] >>= 16
            quotient, remainder = np.divmod(active, frequency)
            active[:] = (quotient << PRECISION) + remainder + start
    words = np.concatenate(chunks[::-1]) if chunks else np.zeros(0, np.uint16)
    return states.astype(np.uint32), words
