"""A decoder of the compressed file in plain Python, written from docs/FORMAT.md alone, section by section."""

from __future__ import annotations

import json
import struct
import zlib


def decode(data: bytes) -> tuple[dict, dict]:
    """Return {name: (shape, the bits of each weight)} and the model card."""
    # Section 2.
    magic, version, a, length, text_length, c, d, w = struct.unpack_from("<8sHHIIIII", data)
    assert magic == bytes.fromhex("8953515A0D0A1A0A") and version == 1 and length == len(data)
    assert zlib.crc32(data[:-4]) == struct.unpack("<I", data[-4:])[0]
    lanes = 2**a
    at = 32 + d
    states = list(struct.unpack_from(f"<{lanes}I", data, at))
    words = list(struct.unpack_from(f"<{w}H", data, at + 4 * lanes))
    raw = data[at + 4 * lanes + 2 * w : length - 4 - c]
    card = zlib.decompress(data[length - 4 - c : length - 4])
    assert len(card) == text_length
    tensors, planes, root = directory(data[32 : 32 + d])
    coder = Coder(states, words)

    # Section 7: the alphabets of all tables.
    alphabets = [256] * sum(bin(p).count("1") for p in planes)
    for _, _, kind, k in tensors:
        alphabets += [2 ** (kind - 1)] if kind > 1 else []
        alphabets += [k] if kind and k else []
    tables = []
    if alphabets:
        folded = coder.segment(sum(alphabets), frequencies(root))
        for alphabet in alphabets:
            level, levels = 0, []
            for _ in range(alphabet):
                z = folded.pop(0)
                level = (level + (z // 2 if z % 2 == 0 else -(z + 1) // 2)) % 256
                levels.append(level)
            tables.append(frequencies(levels))

    # Section 6.
    sizes = (sum(size(t[1]) for t in tensors if t[2] == 0), sum(t[3] for t in tensors if t[2]))
    arrays = []
    for count, coded in zip(sizes, planes):
        numbers = [0] * count
        for p in (3, 2, 1, 0):
            if coded >> p & 1:
                plane = coder.segment(count, tables.pop(0))
            else:
                plane, raw = raw[:count], raw[count:]
            numbers = [number * 256 + byte for number, byte in zip(numbers, plane)]
        arrays.append(numbers)
    assert raw == b""
    values, codebook_numbers = arrays

    decoded = {}
    for name, shape, kind, k in tensors:
        n = size(shape)
        if kind == 0:
            weights, values = values[:n], values[n:]
        else:
            numbers, codebook_numbers = codebook_numbers[:k], codebook_numbers[k:]
            codebook = entries(numbers)
            kept = [True] * n
            if kind > 1:
                g = kind - 1
                symbols = coder.segment(-(-n // g), tables.pop(0))
                kept = [bool(symbol >> j & 1) for symbol in symbols for j in range(g)][:n]
            indices = coder.segment(sum(kept), tables.pop(0)) if k else []
            weights = [codebook[indices.pop(0)] if keep else 0 for keep in kept]
        decoded[name] = (shape, weights)
    assert set(coder.states) == {65536} and coder.words == []
    return decoded, json.loads(card)


def size(shape: list) -> int:
    product = 1
    for dimension in shape:
        product *= dimension
    return product


def directory(data: bytes) -> tuple[list, list, list]:
    """Section 3."""
    data = list(data)

    def varint():
        value = shift = 0
        while True:
            byte = data.pop(0)
            value += byte % 128 << shift
            shift += 7
            if byte < 128:
                return value

    tensors, name = [], []
    for _ in range(varint()):
        name = name[: varint()]
        name = name + [data.pop(0) for _ in range(varint())]
        shape = [varint() for _ in range(varint())]
        kind = varint()
        tensors.append((bytes(name).decode(), shape, kind, varint() if kind else 0))
    planes = [data.pop(0), data.pop(0)]
    root = [data.pop(0) for _ in range(varint())]
    assert data == []
    return tensors, planes, root


def frequencies(levels: list) -> list:
    """Section 4."""
    n = sum(level != 0 for level in levels)
    total = sum(level**2 for level in levels)
    found = [1 + level**2 * (16384 - n) // total if level else 0 for level in levels]
    found[levels.index(max(levels))] += 16384 - sum(found)
    return found


class Coder:
    """Section 5."""

    def __init__(self, states: list, words: list):
        self.states, self.words = states, words

    def segment(self, length: int, table: list) -> list:
        symbols = []
        for t in range(length):
            x = self.states[t % len(self.states)]
            slot = x % 16384
            symbol = start = 0
            while start + table[symbol] <= slot:
                start += table[symbol]
                symbol += 1
            x = table[symbol] * (x // 16384) + slot - start
            if x < 65536:
                x = 65536 * x + self.words.pop(0)
            self.states[t % len(self.states)] = x
            symbols.append(symbol)
        return symbols


def entries(numbers: list) -> list:
    """Section 8."""
    key, found = 0, []
    for number in numbers:
        key += number
        found.append(key - 2**31 if key >= 2**31 else 2**32 - 1 - key)
    return found
