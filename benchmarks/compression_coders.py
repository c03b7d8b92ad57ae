"""Compare bytes and decoding time of ways to code a quantized and pruned SqueezeNet, on the same tensors.

    python benchmarks/compression_coders.py --ckpt_path compressed_SqueezeNet.net [--bits 6] [--rounds 7]

Takes the files that compress.py takes. `this format` is src/sqz; `entropy` is the lower bound for the symbols of this
format. The others code the same symbols (positions, indices, bytes of values) or the same arrays:

- Huffman: a canonical code for each table, as the paper has it; a byte for each length in the table
- relative indices + Huffman: the paper's own layout, 4-bit gaps with fillers, gaps and indices in Huffman codes
- xz, bz2, zlib: Python's own, on positions as bits and indices as bytes, layer after layer
- zstd: likewise, at its highest level (pip install zstandard), when it is installed
- constriction: a range coder in Rust (pip install constriction), with this format's tables, when it is installed

Times are this process's, the least of some rounds, in milliseconds. Huffman's is that of bitarray, in C (pip install
bitarray), when it is installed: in Python a loop over its bits takes seconds.
"""

from __future__ import annotations

import argparse
import bz2
import heapq
import lzma
import sys
import time
import zlib
from pathlib import Path
from typing import Callable

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

import src  # noqa: F401  Before mindspore, as every entry point does.
from src.compression.compress import convolutions
from src.compression.quantize import quantize
from src.compression.reading import read_weights
from src.sqz.fileformat import decode, pack
from src.sqz.layout import Layout, lay_out
from src.sqz.tables import entropy_bits, frequencies_of


def huffman_bits(counts: np.ndarray) -> int:
    """Return the bits that symbols of these counts take in a Huffman code, with a byte for each code's length."""
    heap = [int(count) for count in counts if count]
    heapq.heapify(heap)
    bits = 0 if len(heap) > 1 else sum(heap)
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        bits += merged
        heapq.heappush(heap, merged)
    return bits + 8 * len(counts)


def papers_layout_bytes(parameters: dict[str, np.ndarray], layout: Layout) -> float:
    """Return the bytes of Deep Compression's own layout: gaps of 4 bits, filler entries, two Huffman codes a layer."""
    size = 0.0
    for record in layout.records:
        array = parameters[record.name].ravel()
        if record.codebook_size is None:
            size += array.nbytes
            continue
        gaps = np.diff(np.flatnonzero(array), prepend=-1) - 1
        fillers = gaps // 16
        indices = np.unique(array[array != 0], return_inverse=True)[1] + 1
        index_counts = np.bincount(indices, minlength=2)
        index_counts[0] = fillers.sum()
        gap_counts = np.bincount(gaps % 16, minlength=16)
        gap_counts[15] += fillers.sum()
        size += 4 * len(index_counts) + (huffman_bits(index_counts) + huffman_bits(gap_counts)) / 8
    return size


def plain_bytes(layout: Layout) -> bytes:
    """Return positions as bits and indices as bytes, for a general compressor."""
    kinds = {512: np.uint16, 256: np.uint8}
    parts = [
        s.symbols.astype(kinds.get(len(s.levels), np.uint8 if len(s.levels) < 256 else np.uint16)).tobytes()
        for s in layout.segments
    ]
    return b"".join(parts) + layout.raw


def least_ms(function, rounds: int) -> float:
    """Return the least time of some calls."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return 1000 * min(times)


def constriction_row(layout: Layout, rounds: int) -> tuple[int, float] | None:
    """Return bytes and time of constriction's range coder with this format's tables, or None without it."""
    try:
        import constriction
    except ImportError:
        return None
    models = []
    for segment in layout.segments:
        probabilities = frequencies_of(segment.levels).astype(np.float32)
        # It takes no symbol of probability 0.
        probabilities = np.maximum(probabilities, 1e-6)
        models.append(constriction.stream.model.Categorical(probabilities / probabilities.sum(), perfect=False))
    encoder = constriction.stream.queue.RangeEncoder()
    for segment, model in zip(layout.segments, models):
        if len(segment.levels) > 1:
            encoder.encode(segment.symbols.astype(np.int32), model)
    words = encoder.get_compressed()

    def decode_all() -> None:
        decoder = constriction.stream.queue.RangeDecoder(words)
        for segment, model in zip(layout.segments, models):
            if len(segment.levels) > 1:
                decoder.decode(model, len(segment.symbols))

    return words.nbytes + len(layout.raw), least_ms(decode_all, rounds)


def huffman_ms(layout: Layout, rounds: int) -> float | None:
    """Return the time in which bitarray decodes the symbols from canonical Huffman codes, or None without it."""
    try:
        from bitarray import bitarray
        from bitarray.util import canonical_decode, canonical_huffman
    except ImportError:
        return None
    coded = []
    for segment in layout.segments:
        counts = {symbol: int(count) for symbol, count in enumerate(segment.counts) if count}
        if len(counts) > 1:  # A single symbol takes no bits.
            code, lengths, symbols = canonical_huffman(counts)
            bits = bitarray()
            bits.encode(code, segment.symbols.tolist())
            coded.append((bits, lengths, symbols))
    return least_ms(lambda: [list(canonical_decode(*segment)) for segment in coded], rounds)


def general_coders() -> list[tuple[str, Callable, Callable]]:
    """Return name, compressor and decompressor of the general ones that there are."""
    coders = [
        ("xz", lambda b: lzma.compress(b, preset=9 | lzma.PRESET_EXTREME), lzma.decompress),
        ("bz2", bz2.compress, bz2.decompress),
        ("zlib", lambda b: zlib.compress(b, 9), zlib.decompress),
    ]
    try:
        import zstandard
    except ImportError:
        return coders
    compressor = zstandard.ZstdCompressor(level=22)
    return [*coders, ("zstd", compressor.compress, zstandard.ZstdDecompressor().decompress)]


def main() -> None:
    """Print a table row for each coder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt_path", required=True)
    parser.add_argument("--bits", type=int, choices=range(1, 9))
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    parameters, _ = read_weights(arguments.ckpt_path)
    if arguments.bits:
        for name in convolutions(parameters):
            parameters[name] = quantize(parameters[name], arguments.bits)
    layout = lay_out(parameters)
    data, plain = pack(layout), plain_bytes(layout)
    least = sum(entropy_bits(s.counts) for s in layout.segments) / 8 + len(layout.raw)
    rows = [
        ("entropy of this format's symbols, without tables", least, None),
        ("this format", len(data), least_ms(lambda: decode(data), arguments.rounds)),
        ("Huffman", sum(huffman_bits(s.counts) for s in layout.segments) / 8 + len(layout.raw), huffman_ms(layout, 3)),
        ("relative indices + Huffman (the paper)", papers_layout_bytes(parameters, layout), None),
    ]
    for name, compress, decompress in general_coders():
        packed = compress(plain)
        rows.append((name, len(packed), least_ms(lambda d=decompress, p=packed: d(p), arguments.rounds)))
    found = constriction_row(layout, arguments.rounds)
    if found:
        rows.append(("constriction, tables not counted", *found))
    print("| coder | bytes | decoding, ms |\n|---|---|---|")
    for name, size, milliseconds in rows:
        print(f"| {name} | {size:,.0f} | {'' if milliseconds is None else f'{milliseconds:.0f}'} |")


if __name__ == "__main__":
    main()
