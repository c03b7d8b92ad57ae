"""Convert tensors to symbols and back: positions, indices and codebooks of quantized tensors, bytes of the others.

Every float32 tensor is stored exactly. A tensor with few distinct values, because it was quantized or pruned or never
moved from zero, becomes a codebook and indices; the others, mostly biases, become planes of bytes. Values are compared
and stored by their bits, so that -0.0 and NaN are preserved.
"""

from __future__ import annotations

import math
from typing import Iterator, Mapping, NamedTuple, Sequence

import numpy as np

from src.sqz.rans import Decoder, FormatError, Table
from src.sqz.tables import coded_bits, entropy_bits, fit_levels, frequencies_of, level_bits

MAX_VALUES = 1024  # In a codebook.
MAX_GROUP = 9  # Positions in a symbol: a 3x3 kernel.
# Numbers of positions per symbol to try. With nine a 3x3 kernel is one symbol: its weights are pruned together more
# often than by chance. Fewer than eight would save a few bytes in small layers and slow down the decoder.
_GROUPS = (9, 8)
# A plane of bytes is stored raw unless coding shrinks it to less than this fraction.
_WORTH_CODING = 0.98
# Extra bits charged per symbol, which decide between forms of about the same size: fewer symbols decode faster.
_BITS_FOR_SPEED = 0.02
_ZERO = 0  # The bits of +0.0, the value of a pruned weight.


class Record(NamedTuple):
    """Entry of a tensor in the file's directory.

    codebook_size: number of values in the codebook, or None for a plain tensor.
    group: positions per symbol; 0 when there is no mask and zero is a value like any other.
    """

    name: str
    shape: tuple[int, ...]
    codebook_size: int | None = None
    group: int = 0

    @property
    def size(self) -> int:
        """Return the number of weights."""
        return math.prod(self.shape)


class Segment(NamedTuple):
    """Symbols that are coded with one table.

    owner: the tensor's name, or "values" and "codebooks" for the bytes of all tensors together.
    part: "positions", "indices", or "plane 3" to "plane 0", the most significant byte first.
    """

    owner: str
    part: str
    symbols: np.ndarray
    levels: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Return the count of each symbol."""
        return np.bincount(self.symbols, minlength=len(self.levels))

    @property
    def bits(self) -> float:
        """Return the bits of the symbols in the file, to within a thousandth, without the table."""
        return coded_bits(self.counts, frequencies_of(self.levels))


class Layout(NamedTuple):
    """Content of a file: the directory, the segments in their order, and the raw bytes.

    coded_planes: for the values and for the codebooks, whether planes 3 to 0 are coded or raw.
    """

    records: list[Record]
    segments: list[Segment]
    raw: bytes
    coded_planes: tuple[tuple[bool, ...], tuple[bool, ...]]


def lay_out(parameters: Mapping[str, np.ndarray]) -> Layout:
    """Return the layout of tensors. Raises TypeError for a tensor that is not float32."""
    records, segments, plain, codebooks = [], [], [], []
    for name, array in parameters.items():
        if array.dtype != np.float32:
            raise TypeError(f"{name} is {array.dtype}, not float32")
        bits = np.ascontiguousarray(array).view(np.uint32).ravel()
        values, indices = np.unique(order_preserving(bits), return_inverse=True)
        if not array.size or len(values) > min(MAX_VALUES, array.size // 2):
            records.append(Record(name, array.shape))
            plain.append(bits)
            continue
        values, group, parts = _quantized(values, indices.ravel())
        records.append(Record(name, array.shape, len(values), group))
        segments += [Segment(name, *part) for part in parts]
        codebooks.append(np.diff(values, prepend=np.uint32(0)))
    planes, raw, flags = _planes("values", plain)
    more_planes, more_raw, more_flags = _planes("codebooks", codebooks)
    return Layout(records, planes + more_planes + segments, raw + more_raw, (flags, more_flags))


def _quantized(values: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, int, list[tuple]]:
    """Return the codebook, the group and the segments' parts of a quantized tensor, in the smaller form.

    values: ascending keys of order_preserving, with zero if it occurs. indices: of the value of each weight.
    """
    dense = [_coded("indices", indices, len(values))]
    zero = np.flatnonzero(values == order_preserving(np.uint32(_ZERO)))
    if not len(zero):
        return values, 0, dense
    kept = indices != zero[0]
    kept_indices = indices[kept]
    group, positions = min(
        ((g, _coded("positions", patterns(kept, g), 1 << g)) for g in _GROUPS), key=lambda choice: _cost(choice[1])
    )
    parts = [positions]
    if len(kept_indices):
        parts.append(_coded("indices", kept_indices - (kept_indices > zero[0]), len(values) - 1))
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
    """Return the coded planes of uint32 arrays, the bytes of the raw ones, and whether planes 3 to 0 are coded."""
    values = np.concatenate([np.zeros(0, np.uint32), *arrays])
    segments, raw, flags = [], b"", []
    for plane in (3, 2, 1, 0):
        symbols = (values >> (8 * plane)).astype(np.uint8).astype(np.int64)
        counts = np.bincount(symbols, minlength=256)
        # The lower bound first: it spares most planes the search for a table.
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
    """Return the alphabet size of each segment's table, in the order of the segments."""
    alphabets = [256] * sum(map(sum, coded_planes))
    for record in records:
        if record.codebook_size is not None:
            alphabets += [1 << record.group] if record.group else []
            alphabets += [record.codebook_size] if record.codebook_size else []
    return alphabets


def put_together(
    records: Sequence[Record],
    coded_planes: Sequence[Sequence[bool]],
    raw: bytes,
    decoder: Decoder,
    tables: Iterator[Table],
) -> dict[str, np.ndarray]:
    """Return the tensors of a file. Raises FormatError when its parts contradict each other."""
    sizes = (
        sum(record.size for record in records if record.codebook_size is None),
        sum(record.codebook_size or 0 for record in records),
    )
    # A byte per value for each raw plane.
    expected = sum(size * (4 - sum(coded)) for size, coded in zip(sizes, coded_planes))
    if len(raw) != expected:
        raise FormatError(f"{len(raw):,} bytes of values where {expected:,} belong")
    raw_bytes = np.frombuffer(raw, np.uint8)
    plain, raw_bytes = _read_planes(sizes[0], coded_planes[0], raw_bytes, decoder, tables)
    codebooks, raw_bytes = _read_planes(sizes[1], coded_planes[1], raw_bytes, decoder, tables)
    parameters = {}
    for record in records:
        if record.codebook_size is None:
            bits, plain = plain[: record.size], plain[record.size :]
        else:
            values, codebooks = _values(codebooks[: record.codebook_size]), codebooks[record.codebook_size :]
            bits = _read_quantized(record, values, decoder, tables)
        parameters[record.name] = bits.view(np.float32).reshape(record.shape)
    return parameters


def _read_quantized(record: Record, values: np.ndarray, decoder: Decoder, tables: Iterator[Table]) -> np.ndarray:
    """Return the bits (size,) uint32 of a quantized tensor."""
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
    """Return values (size,) uint32 from their planes, and the remaining raw bytes."""
    values = np.zeros(size, np.uint32)
    for is_coded in coded:
        if is_coded:
            plane = decoder.segment(size, next(tables))
        else:
            plane, raw = raw[:size], raw[size:]
        values = (values << np.uint32(8)) | plane.astype(np.uint32)
    return values, raw


def _values(differences: np.ndarray) -> np.ndarray:
    """Return the bits of a codebook's values (K,) uint32 from differences of their keys."""
    keys = np.cumsum(differences.astype(np.uint64))
    if len(keys) and (keys[-1] > 0xFFFFFFFF or not differences[1:].all()):
        raise FormatError("the values of a codebook do not ascend")
    keys = keys.astype(np.uint32)
    return np.where(keys >> np.uint32(31), keys & np.uint32(0x7FFFFFFF), ~keys)


def order_preserving(bits: np.ndarray) -> np.ndarray:
    """Return uint32 keys in the order of the float32 values of these bits, -0.0 just below +0.0."""
    return np.where(bits >> np.uint32(31), ~bits, bits | np.uint32(0x80000000))


def patterns(kept: np.ndarray, group: int) -> np.ndarray:
    """Return a symbol for each `group` successive weights: bit j is set when weight j of them is kept."""
    padded = np.zeros(-(-len(kept) // group) * group, np.int64)
    padded[: len(kept)] = kept
    return padded.reshape(-1, group) @ (1 << np.arange(group))
