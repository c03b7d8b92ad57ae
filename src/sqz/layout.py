"""From tensors to symbols and back: which are shared, their positions, codes and values, and the rest as bytes.

Any float32 tensor is stored exactly. One with few different values, because it was shared or pruned or never moved
from zero, becomes a codebook and codes; the others, biases as a rule, become planes of bytes. Values are compared and
stored by their bits, so that -0.0 and NaN come back as they were.
"""

from __future__ import annotations

import math
from typing import Iterator, Mapping, NamedTuple, Sequence

import numpy as np

from src.sqz.rans import Decoder, FormatError, Table
from src.sqz.tables import coded_bits, entropy_bits, fit_levels, frequencies_of, level_bits

MAX_VALUES = 1024  # In a codebook.
MAX_GROUP = 9  # Positions in a symbol: a 3x3 kernel.
# Positions in a symbol that are tried. Nine make one symbol of a 3x3 kernel, whose weights are pruned together more
# often than by chance. Fewer than eight would save a few bytes in small layers and make the decoder slow.
_GROUPS = (9, 8)
# A plane of bytes that coding would shrink by less than this is stored as it is.
_WORTH_CODING = 0.98
# Bits that a symbol counts for beyond its own, where two forms take about as much: fewer symbols decode faster.
_BITS_FOR_SPEED = 0.02
_ZERO = 0  # The bits of +0.0, which is what a pruned weight is.


class Record(NamedTuple):
    """What the file's directory says of a tensor.

    values: length of the codebook, or None for a tensor that is not shared.
    group: positions in a symbol; 0 when there is no mask and zero is a value like any other.
    """

    name: str
    shape: tuple[int, ...]
    values: int | None = None
    group: int = 0

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


class Segment(NamedTuple):
    """Symbols coded with one table.

    owner: the tensor's name, or "values" and "codebooks" for bytes of all tensors together.
    part: "positions", "codes", or "plane 3" to "plane 0", the most significant byte first.
    """

    owner: str
    part: str
    symbols: np.ndarray
    levels: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """How often each symbol occurs."""
        return np.bincount(self.symbols, minlength=len(self.levels))

    @property
    def bits(self) -> float:
        """What the symbols take in the file, to within a thousandth, without the table."""
        return coded_bits(self.counts, frequencies_of(self.levels))


class Layout(NamedTuple):
    """All that is in a file: the directory, symbols in their order, bytes stored as they are, which planes those are.

    coded_planes: for the values and for the codebooks, whether planes 3 to 0 are coded.
    """

    records: list[Record]
    segments: list[Segment]
    raw: bytes
    coded_planes: tuple[tuple[bool, ...], tuple[bool, ...]]


def lay_out(parameters: Mapping[str, np.ndarray]) -> Layout:
    """Return tensors as the file holds them. Raises TypeError for one that is not float32."""
    records, segments, plain, codebooks = [], [], [], []
    for name, array in parameters.items():
        if array.dtype != np.float32:
            raise TypeError(f"{name} is {array.dtype}, not float32")
        bits = np.ascontiguousarray(array).view(np.uint32).ravel()
        values, codes = np.unique(order_preserving(bits), return_inverse=True)
        if not array.size or len(values) > min(MAX_VALUES, array.size // 2):
            records.append(Record(name, array.shape))
            plain.append(bits)
            continue
        values, group, parts = _shared(values, codes.ravel())
        records.append(Record(name, array.shape, len(values), group))
        segments += [Segment(name, *part) for part in parts]
        codebooks.append(np.diff(values, prepend=np.uint32(0)))
    planes, raw, flags = _planes("values", plain)
    more_planes, more_raw, more_flags = _planes("codebooks", codebooks)
    return Layout(records, planes + more_planes + segments, raw + more_raw, (flags, more_flags))


def _shared(values: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, int, list[tuple]]:
    """Return the codebook, the group and the segments' parts of a shared tensor, in the form that takes less.

    values: ascending keys of order_preserving, with zero if it occurs. codes: an index into them for every weight.
    """
    dense = [_coded("codes", codes, len(values))]
    zero = np.flatnonzero(values == order_preserving(np.uint32(_ZERO)))
    if not len(zero):
        return values, 0, dense
    kept = codes != zero[0]
    kept_codes = codes[kept]
    group, positions = min(
        ((g, _coded("positions", patterns(kept, g), 1 << g)) for g in _GROUPS), key=lambda choice: _cost(choice[1])
    )
    parts = [positions]
    if len(kept_codes):
        parts.append(_coded("codes", kept_codes - (kept_codes > zero[0]), len(values) - 1))
    if sum(map(_cost, parts)) < _cost(dense[0]):
        return np.delete(values, zero), group, parts
    return values, 0, dense


def _coded(part: str, symbols: np.ndarray, alphabet: int) -> tuple[str, np.ndarray, np.ndarray]:
    return part, symbols, fit_levels(np.bincount(symbols, minlength=alphabet))


def _cost(part: tuple[str, np.ndarray, np.ndarray]) -> float:
    _, symbols, levels = part
    own = coded_bits(np.bincount(symbols, minlength=len(levels)), frequencies_of(levels))
    return own + level_bits(levels) + _BITS_FOR_SPEED * len(symbols)


def _planes(owner: str, arrays: list[np.ndarray]) -> tuple[list[Segment], bytes, tuple[bool, ...]]:
    """Return the planes of some arrays uint32 that are coded, the bytes of the others, and which are which."""
    values = np.concatenate([np.zeros(0, np.uint32), *arrays])
    segments, raw, flags = [], b"", []
    for plane in (3, 2, 1, 0):
        symbols = (values >> (8 * plane)).astype(np.uint8).astype(np.int64)
        counts = np.bincount(symbols, minlength=256)
        # The bound first, which spares most planes the search for a table.
        is_coded = entropy_bits(counts) < _WORTH_CODING * 8 * len(values)
        if is_coded:
            part = _coded(f"plane {plane}", symbols, 256)
            is_coded = _cost(part) < _WORTH_CODING * 8 * len(values)
        if is_coded:
            segments.append(Segment(owner, *part))
        else:
            raw += symbols.astype(np.uint8).tobytes()
        flags.append(is_coded)
    return segments, raw, tuple(flags)


def segment_alphabets(records: Sequence[Record], coded_planes: Sequence[Sequence[bool]]) -> list[int]:
    """Return the alphabet of every segment's table, in the order of the segments."""
    alphabets = [256] * sum(map(sum, coded_planes))
    for record in records:
        if record.values is not None:
            alphabets += [1 << record.group] if record.group else []
            alphabets += [record.values] if record.values else []
    return alphabets


def put_together(
    records: Sequence[Record],
    coded_planes: Sequence[Sequence[bool]],
    raw: bytes,
    decoder: Decoder,
    tables: Iterator[Table],
) -> dict[str, np.ndarray]:
    """Return the tensors of a file. Raises FormatError where its parts contradict each other."""
    sizes = (
        sum(record.size for record in records if record.values is None),
        sum(record.values for record in records if record.values is not None),
    )
    # A byte a value for each plane that is not coded.
    expected = sum(size * (4 - sum(coded)) for size, coded in zip(sizes, coded_planes))
    if len(raw) != expected:
        raise FormatError(f"{len(raw):,} bytes of values where {expected:,} belong")
    raw_bytes = np.frombuffer(raw, np.uint8)
    plain, raw_bytes = _read_planes(sizes[0], coded_planes[0], raw_bytes, decoder, tables)
    codebooks, raw_bytes = _read_planes(sizes[1], coded_planes[1], raw_bytes, decoder, tables)
    parameters = {}
    for record in records:
        if record.values is None:
            bits, plain = plain[: record.size], plain[record.size :]
        else:
            values, codebooks = _values(codebooks[: record.values]), codebooks[record.values :]
            bits = _read_shared(record, values, decoder, tables)
        parameters[record.name] = bits.view(np.float32).reshape(record.shape)
    return parameters


def _read_shared(record: Record, values: np.ndarray, decoder: Decoder, tables: Iterator[Table]) -> np.ndarray:
    """Return the bits (size,) uint32 of a shared tensor."""
    if not record.group:
        return values[decoder.segment(record.size, next(tables))]
    symbols = decoder.segment(-(-record.size // record.group), next(tables))
    kept_in_pattern = (np.arange(1 << record.group)[:, None] >> np.arange(record.group) & 1).astype(bool)
    kept = kept_in_pattern[symbols].ravel()
    if kept[record.size :].any():
        raise FormatError(f"{record.name}: a position lies outside the tensor")
    kept = kept[: record.size].nonzero()[0]
    if bool(len(kept)) != bool(len(values)):
        raise FormatError(f"{record.name}: {len(kept)} weights are kept, with {len(values)} values")
    bits = np.full(record.size, _ZERO, np.uint32)
    if len(kept):
        bits[kept] = values[decoder.segment(len(kept), next(tables))]
    return bits


def _read_planes(size: int, coded: Sequence[bool], raw: np.ndarray, decoder: Decoder, tables: Iterator[Table]) -> tuple:
    """Return values (size,) uint32 from their planes, and the raw bytes that are left."""
    values = np.zeros(size, np.uint32)
    for is_coded in coded:
        if is_coded:
            plane = decoder.segment(size, next(tables))
        else:
            plane, raw = raw[:size], raw[size:]
        values = (values << np.uint32(8)) | plane.astype(np.uint32)
    return values, raw


def _values(differences: np.ndarray) -> np.ndarray:
    """Return the bits of a codebook's values (K,) uint32 from the differences of their keys."""
    keys = np.cumsum(differences.astype(np.uint64))
    if len(keys) and (keys[-1] > 0xFFFFFFFF or not differences[1:].all()):
        raise FormatError("the values of a codebook do not ascend")
    keys = keys.astype(np.uint32)
    return np.where(keys >> np.uint32(31), keys & np.uint32(0x7FFFFFFF), ~keys)


def order_preserving(bits: np.ndarray) -> np.ndarray:
    """Return keys uint32 that ascend as the float32 values of these bits do, -0.0 just below +0.0."""
    return np.where(bits >> np.uint32(31), ~bits, bits | np.uint32(0x80000000))


def patterns(kept: np.ndarray, group: int) -> np.ndarray:
    """Return a symbol for each `group` weights in a row: bit j is set where weight j of them is kept."""
    padded = np.zeros(-(-len(kept) // group) * group, np.int64)
    padded[: len(kept)] = kept
    return padded.reshape(-1, group) @ (1 << np.arange(group))
