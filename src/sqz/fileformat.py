"""Encode and decode the compressed file. docs/FORMAT.md describes the format byte by byte.

data = encode({"features.0.conv.weight": weights, ...}, card)
parameters, card = decode(data)       # equal bit for bit
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any, Iterator, Mapping

import numpy as np

from src.sqz.layout import MAX_GROUP, MAX_VALUES, Layout, Record, lay_out, put_together, segment_alphabets
from src.sqz.rans import Decoder, FormatError, Table
from src.sqz.rans import encode as encode_symbols
from src.sqz.tables import fit_levels, frequencies_of, levels_of, zigzag_differences

# A byte above 127, both line ends and an end-of-file sign, as in PNG, so that transfers in text mode are detected.
MAGIC = b"\x89SQZ\r\n\x1a\n"
VERSION = 1
SUFFIX = ".sqz"
# Magic, version, binary logarithm of the lanes, length of the file, length of the card before and after zlib, bytes of
# the directory, words of the coder.
_HEADER = struct.Struct("<8sHHIIIII")
_CHECKSUM = struct.Struct("<I")
MAX_LANES = 4096
# Limits on the sizes in a file, far above any SqueezeNet, so that a wrong number cannot claim all memory.
MAX_WEIGHTS, MAX_TENSORS, MAX_DIMENSIONS, MAX_CARD = 1 << 26, 1 << 12, 8, 1 << 24
MAX_BYTES = 5 * MAX_WEIGHTS + MAX_CARD  # Of the file.
# Symbols per lane: with fewer the lanes' states would be a notable part of the file, with more numpy would be slow.
_SYMBOLS_A_LANE = 1024


def encode(parameters: Mapping[str, np.ndarray], card: Mapping[str, Any] | None = None) -> bytes:
    """Return a file of float32 tensors and a card (any JSON object) as bytes. Raises TypeError for other dtypes."""
    return pack(lay_out(parameters), card)


def pack(layout: Layout, card: Mapping[str, Any] | None = None) -> bytes:
    """Return a file of the tensors of a layout as bytes, see encode."""
    folded, root = _folded_levels(layout), root_levels(layout)
    segments = [(folded, Table(frequencies_of(root)))] if len(folded) else []
    segments += [(s.symbols, Table(frequencies_of(s.levels))) for s in layout.segments]
    lanes = _lanes(sum(len(symbols) for symbols, _ in segments))
    states, words = encode_symbols(segments, lanes)
    directory = b"".join([_varint(len(layout.records)), *_records(layout.records)])
    directory += bytes(sum(is_coded << plane for plane, is_coded in zip((3, 2, 1, 0), p)) for p in layout.coded_planes)
    directory += _varint(len(root)) + root.tobytes()
    text = json.dumps(card or {}, ensure_ascii=False, separators=(",", ":")).encode()
    packed_card = zlib.compress(text, 9)
    body = b"".join([directory, states.astype("<u4").tobytes(), words.astype("<u2").tobytes(), layout.raw, packed_card])
    length = _HEADER.size + len(body) + _CHECKSUM.size
    sizes = (length, len(text), len(packed_card), len(directory), len(words))
    data = _HEADER.pack(MAGIC, VERSION, lanes.bit_length() - 1, *sizes) + body
    return data + _CHECKSUM.pack(zlib.crc32(data))


def root_levels(layout: Layout) -> np.ndarray:
    """Return the levels (uint8) of the root table, which codes the levels of all other tables."""
    folded = _folded_levels(layout)
    return fit_levels(np.bincount(folded)) if len(folded) else np.zeros(0, np.uint8)


def _folded_levels(layout: Layout) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int64), *(zigzag_differences(s.levels) for s in layout.segments)])


def decode(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the tensors and the card of a file. Raises FormatError, one line, for an invalid file."""
    lanes, length, text_length, card_length, directory_length, word_count = _checked_header(data)
    directory_end = _HEADER.size + directory_length
    words_at = directory_end + 4 * lanes
    raw_at = words_at + 2 * word_count
    card_at = length - _CHECKSUM.size - card_length
    if not directory_end <= words_at <= raw_at <= card_at:
        raise FormatError("its parts are larger than the file")
    records, coded_planes, root = _Directory(data[_HEADER.size : directory_end]).read()
    card = _card(data[card_at : card_at + card_length], text_length)
    states = np.frombuffer(data, "<u4", lanes, directory_end)
    words = np.frombuffer(data, "<u2", word_count, words_at)
    decoder = Decoder(states, words)
    tables = _tables(segment_alphabets(records, coded_planes), root, decoder)
    parameters = put_together(records, coded_planes, data[raw_at:card_at], decoder, tables)
    decoder.finish()
    return parameters, card


def _checked_header(data: bytes) -> tuple[int, ...]:
    """Return the number of lanes and the lengths in the header of an intact file."""
    if not data:
        raise FormatError("it is empty")
    if not data.startswith(MAGIC):
        raise FormatError("it is not a compressed network")
    if len(data) < _HEADER.size + _CHECKSUM.size:
        raise FormatError("it is cut off in its header")
    _, version, log_lanes, length, *sizes = _HEADER.unpack_from(data)
    if version > VERSION:
        raise FormatError(f"it has version {version} of the format, and this program knows versions up to {VERSION}")
    if length != len(data):
        raise FormatError(f"it has {len(data):,} bytes and should have {length:,}")
    if zlib.crc32(data[: -_CHECKSUM.size]) != _CHECKSUM.unpack_from(data, length - _CHECKSUM.size)[0]:
        raise FormatError("its checksum is wrong")
    if version < 1 or log_lanes > MAX_LANES.bit_length() - 1:
        raise FormatError("its header is not one of this format")
    return (1 << log_lanes, length, *sizes)


def _card(packed: bytes, length: int) -> dict[str, Any]:
    if length > MAX_CARD:
        raise FormatError(f"its model card claims {length:,} bytes")
    try:
        inflate = zlib.decompressobj()
        text = inflate.decompress(packed, length + 1)
        if len(text) != length or not inflate.eof:
            raise FormatError("its model card has another length than it claims")
        card = json.loads(text)
    except (zlib.error, ValueError, RecursionError) as error:
        raise FormatError(f"its model card cannot be read ({error})") from None
    if not isinstance(card, dict):
        raise FormatError("its model card is not a JSON object")
    return card


def _tables(alphabets: list[int], root: np.ndarray, decoder: Decoder) -> Iterator[Table]:
    """Return the tables of all segments; their levels are coded first.

    They are made one by one: all together take a thousand times the memory of the file.
    """
    total = sum(alphabets)
    levels = decoder.segment(total, Table(frequencies_of(root))) if total else np.zeros(0, np.uint16)
    return (Table(frequencies_of(levels_of(part))) for part in np.split(levels, np.cumsum(alphabets)[:-1]))


def _lanes(symbols: int) -> int:
    return min(MAX_LANES, 1 << max(0, (symbols // _SYMBOLS_A_LANE).bit_length() - 1))


def _varint(value: int) -> bytes:
    """Return a number as LEB128: seven bits per byte, the lowest first, with the top bit set in all but the last."""
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def _records(records: list[Record]) -> list[bytes]:
    """Return the directory's entries. A name omits the start that it has in common with the previous one."""
    entries, previous = [], b""
    for record in records:
        name = record.name.encode()
        same = next((i for i, (a, b) in enumerate(zip(name, previous)) if a != b), min(len(name), len(previous)))
        numbers = [same, len(name) - same]
        shape = [len(record.shape), *record.shape]
        kind = [0] if record.codebook_size is None else [1 + record.group, record.codebook_size]
        entries.append(b"".join([*map(_varint, numbers), name[same:], *map(_varint, shape + kind)]))
        previous = name
    return entries


class _Directory:
    """Reader of the directory. Raises FormatError for impossible numbers."""

    def __init__(self, data: bytes):
        self._data, self._position = data, 0

    def read(self) -> tuple[list[Record], list[list[bool]], np.ndarray]:
        """Return the records, whether each plane is coded, and the root table's levels."""
        records, name, weights = [], b"", 0
        for _ in range(self._number(MAX_TENSORS, "tensors")):
            same = self._number(len(name), "characters of the name before")
            name = name[:same] + self._bytes(self._number(len(self._data), "characters"))
            record = self._record(name)
            weights += record.size
            if weights > MAX_WEIGHTS or any(dimension > MAX_WEIGHTS for dimension in record.shape):
                raise FormatError(f"it claims more than {MAX_WEIGHTS:,} weights")
            records.append(record)
        if len({record.name for record in records}) != len(records):
            raise FormatError("two tensors have the same name")
        flags = [[bool(byte >> plane & 1) for plane in (3, 2, 1, 0)] for byte in self._bytes(2)]
        root = np.frombuffer(self._bytes(self._number(256, "levels")), np.uint8)
        if self._position != len(self._data):
            raise FormatError("its directory is longer than its list of tensors")
        return records, flags, root

    def _record(self, name: bytes) -> Record:
        try:
            text = name.decode()
        except UnicodeDecodeError:
            raise FormatError("a name is not UTF-8") from None
        shape = tuple(self._number(0xFFFFFFFF, "weights") for _ in range(self._number(MAX_DIMENSIONS, "dimensions")))
        kind = self._number(1 + MAX_GROUP, "as the kind of a tensor")
        return Record(text, shape, self._number(MAX_VALUES, "values"), kind - 1) if kind else Record(text, shape)

    def _number(self, most: int, noun: str) -> int:
        value = shift = 0
        while True:
            (byte,) = self._bytes(1)
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
            if shift > 28:
                raise FormatError("a number in its directory is too long")
        if value > most:
            raise FormatError(f"it claims {value:,} {noun}, and at most {most:,} are allowed")
        return value

    def _bytes(self, count: int) -> bytes:
        part = self._data[self._position : self._position + count]
        if len(part) != count:
            raise FormatError("its directory ends too early")
        self._position += count
        return part
