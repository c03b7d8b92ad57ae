"""docs/FORMAT.md: its test vector, decoded by a decoder that was written from the document alone."""

from __future__ import annotations

import re

import numpy as np
import pytest

from src.compression.prune import prune
from src.compression.quantize import quantize
from src.sqz.fileformat import decode, encode
from tests.programs import ROOT
from tests.sqz import plain_decoder

DOCUMENT = ROOT / "docs" / "FORMAT.md"


def vector_parameters() -> dict[str, np.ndarray]:
    """The tensors of the document's section 10."""
    i = np.arange(2304)
    return {
        "w": np.where(i % 9 == 4, 1 + i // 9 % 3, 0).astype(np.float32).reshape(32, 8, 3, 3),
        "v": (i[:16] % 4).astype(np.float32).reshape(4, 4),
        "b": (i[:128] % 7 - i[:128] / 512).astype(np.float32),
        "c": np.array([1.5, -0.0, np.inf], np.float32),
    }


def vector() -> bytes:
    section = DOCUMENT.read_text(encoding="utf-8").split("## 10. Test vector")[1]
    return bytes.fromhex(re.search(r"```hex\n(.*?)```", section, re.DOTALL)[1])


def bits_of(parameters):
    return {name: (list(a.shape), a.view(np.uint32).ravel().tolist()) for name, a in parameters.items()}


def test_the_documents_vector_is_decoded_by_its_own_decoder_and_by_the_programs():
    expected = bits_of(vector_parameters())
    assert plain_decoder.decode(vector()) == (expected, {"classes": ["a", "b"]})
    parameters, card = decode(vector())
    assert (bits_of(parameters), card) == (expected, {"classes": ["a", "b"]})


def test_the_encoder_still_writes_the_documents_vector():
    assert encode(vector_parameters(), {"classes": ["a", "b"]}) == vector()


@pytest.mark.parametrize("seed", range(3))
def test_both_decoders_agree_on_larger_files_with_several_lanes(seed):
    random = np.random.RandomState(seed)
    weights = random.standard_normal((16, 8, 3, 3)).astype(np.float32)
    parameters = {
        "a.weight": quantize(prune(weights, sparsity=0.6), 4),
        "a.bias": random.standard_normal(16).astype(np.float32),
        "b.weight": quantize(weights[:, :, :1, :1].repeat(30, axis=0), 3),
        "b.gamma": np.ones(40, np.float32),
    }
    data = encode(parameters)
    assert data[10] > 0  # Lanes.
    decoded, _ = plain_decoder.decode(data)
    assert decoded == bits_of(parameters)
