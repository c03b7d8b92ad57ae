from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from src.compression.prune import prune
from src.compression.quantize import quantize
from src.squeezenet import SqueezeNet
from src.sqz.fileformat import MAX_WEIGHTS, decode, encode
from src.sqz.layout import lay_out
from src.sqz.rans import FormatError
from src.sqz.tables import level_bits

CARD = {"classes": ["Katze", "Hündin"], "model": {"version": "1_0"}}


def assert_equal_bit_for_bit(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].shape == array.shape and found[name].dtype == np.float32
        assert found[name].tobytes() == array.tobytes(), name


def small_parameters():
    """Tensors of every kind: plain, quantized, quantized and pruned, all zero, all alike, no dimensions, no weights."""
    random = np.random.RandomState(0)
    weights = random.standard_normal((16, 8, 3, 3)).astype(np.float32)
    return {
        "features.0.conv.weight": quantize(weights, 4),
        "features.1.conv.weight": quantize(prune(weights, sparsity=0.7), 5),
        "features.1.conv.bias": random.standard_normal(16).astype(np.float32),
        "zeros": np.zeros((5, 7), np.float32),
        "ones": np.ones(64, np.float32),
        "number": np.float32(3.5).reshape(()),
        "nothing": np.zeros((0, 3), np.float32),
    }


@pytest.fixture(scope="module")
def small_file():
    return encode(small_parameters(), CARD)


def with_checksum(data: bytes) -> bytes:
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


def test_tensors_of_every_kind_and_the_card_come_back(small_file):
    parameters, card = decode(small_file)
    assert_equal_bit_for_bit(parameters, small_parameters())
    assert card == CARD


def test_no_tensors_at_all():
    assert decode(encode({})) == ({}, {})


any_bits = hnp.arrays(np.uint32, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6))
few_values = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5).flatmap(
    lambda values: hnp.arrays(
        np.uint32, hnp.array_shapes(max_dims=4, max_side=8), elements=st.sampled_from([0, 0x80000000, *values])
    )
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=20), any_bits | few_values, max_size=4))
def test_any_float32_comes_back_nan_and_minus_zero_included(drawn):
    parameters = {name: bits.view(np.float32) for name, bits in drawn.items()}
    assert_equal_bit_for_bit(decode(encode(parameters))[0], parameters)


NETS = [
    {"version": "1_0", "num_classes": 10},
    {"version": "1_1", "num_classes": 10, "batch_norm": "squeeze"},
    {"version": "cifar", "batch_norm": "all", "bypass": "complex"},
    {"version": "cifar", "squeeze_ratio": 0.25, "pct_3x3": 0.25, "bypass": "simple"},
]


def weights_of(arguments) -> dict[str, np.ndarray]:
    arrays = {name: parameter.asnumpy() for name, parameter in SqueezeNet(**arguments).parameters_and_names()}
    return {name: array for name, array in arrays.items() if array.dtype == np.float32}


def check_bit_widths(parameters, widths):
    size = sum(array.nbytes for array in parameters.values())
    for bits in widths:
        quantized = {name: quantize(a, bits, "linear") if a.ndim == 4 else a for name, a in parameters.items()}
        data = encode(quantized)
        assert_equal_bit_for_bit(decode(data)[0], quantized)
        assert len(data) < size * (bits + 2) / 32


@pytest.mark.parametrize("arguments", NETS, ids=str)
def test_every_net_comes_back_as_it_is_and_quantized(arguments):
    parameters = weights_of(arguments)
    data = encode(parameters)
    assert_equal_bit_for_bit(decode(data)[0], parameters)
    assert len(data) < sum(array.nbytes for array in parameters.values())
    check_bit_widths(parameters, [5])


def test_the_small_net_comes_back_at_every_bit_width():
    check_bit_widths(weights_of(NETS[3]), range(1, 9))


@pytest.mark.slow
@pytest.mark.parametrize("arguments", NETS[:3], ids=str)
def test_every_net_comes_back_at_every_bit_width(arguments):
    check_bit_widths(weights_of(arguments), range(1, 9))


@pytest.mark.parametrize("bits", [2, 6])
def test_the_file_is_within_two_percent_of_what_its_parts_claim(bits):
    random = np.random.RandomState(0)
    weights = random.laplace(size=(128, 64, 3, 3)).astype(np.float32)
    parameters = {
        "weight": quantize(prune(weights, sparsity=0.6), bits),
        "dense": quantize(weights[:32], bits),
        "bias": random.standard_normal(128).astype(np.float32),
    }
    layout = lay_out(parameters)
    claimed = sum(s.bits + level_bits(s.levels) for s in layout.segments) / 8 + len(layout.raw)
    assert claimed * 0.98 < len(encode(parameters)) < claimed * 1.02


def test_only_float32_is_taken():
    with pytest.raises(TypeError, match="step is int32"):
        encode({"step": np.zeros(1, np.int32)})


def test_300_flipped_bits_are_all_caught(small_file):
    random = np.random.RandomState(0)
    for position in random.choice(8 * len(small_file), 300, replace=False):
        broken = bytearray(small_file)
        broken[position // 8] ^= 1 << position % 8
        with pytest.raises(FormatError):
            decode(bytes(broken))


def test_every_truncation_is_caught(small_file):
    for length in [*range(0, 64), *range(64, len(small_file), 37)]:
        with pytest.raises(FormatError):
            decode(small_file[:length])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda data: b"", "it is empty"),
        (lambda data: b"PK" + data[2:], "not a compressed network"),
        (lambda data: data[:20], "cut off in its header"),
        (lambda data: data[:-1], "bytes and should have"),
        (lambda data: data + b"x", "bytes and should have"),
        (lambda data: data[:8] + b"\x02\x00" + data[10:], "it has version 2 of the format"),
        (lambda data: data[:-20] + b"\x00" + data[-19:], "checksum is wrong"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(small_file, change, message):
    with pytest.raises(FormatError, match=message):
        decode(change(small_file))


def claim(shape: list[int], kind: list[int], words: int = 0, card: int = 2) -> bytes:
    """Return a sound header and checksum around a directory that claims one tensor."""

    def varint(value):
        encoded = []
        while value > 127:
            encoded.append(value & 127 | 128)
            value >>= 7
        return bytes([*encoded, value])

    numbers = [1, 0, 1, ord("w"), len(shape), *shape, *kind]
    directory = b"".join(map(varint, numbers)) + b"\0\0" + varint(1) + b"\1"
    packed = zlib.compress(b"{}")
    body = directory + struct.pack("<I", 1 << 16) + packed
    header = struct.pack(
        "<8sHHIIIII", b"\x89SQZ\r\n\x1a\n", 1, 0, 36 + len(body), card, len(packed), len(directory), words
    )
    return with_checksum(header + body + bytes(4))


@pytest.mark.parametrize(
    "data, message",
    [
        (claim([2**32 - 1], [0]), f"more than {MAX_WEIGHTS:,} weights"),
        (claim([0, 2**32 - 1], [0]), f"more than {MAX_WEIGHTS:,} weights"),
        (claim([2**16, 2**16, 2**16], [1, 1]), f"more than {MAX_WEIGHTS:,} weights"),
        (claim([2**26], [0]), "0 bytes of values where"),
        (claim([64] * 9, [0]), "9 dimensions"),
        (claim([8], [1, 2**31]), "2,147,483,648 values"),
        (claim([8], [0], words=2**31), "parts are larger"),
        (claim([8], [0], card=2**31), "model card claims"),
        (claim([8], [0], card=3), "another length"),
    ],
)
def test_huge_claims_are_refused_before_anything_is_allocated(data, message):
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(FormatError, match=message):
        decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


def test_a_card_that_inflates_without_end_is_stopped():
    packed = zlib.compress(bytes(2**27))
    data = claim([0], [0])
    body = data[32 : -4 - len(zlib.compress(b"{}"))] + packed
    header = bytearray(data[:32])
    struct.pack_into("<III", header, 12, 36 + len(body), 100, len(packed))
    with pytest.raises(FormatError, match="another length"):
        decode(with_checksum(bytes(header) + body + bytes(4)))


def test_changes_under_a_right_checksum_are_refused_or_decoded_but_crash_nothing(small_file):
    random = np.random.RandomState(1)
    refused = 0
    for _ in range(150):
        broken = bytearray(small_file)
        for position in random.randint(8, len(broken) - 4, random.randint(1, 4)):
            broken[position] = random.randint(256)
        struct.pack_into("<I", broken, 12, len(broken))
        try:
            decode(with_checksum(bytes(broken)))
        except FormatError:
            refused += 1
    assert refused > 75
