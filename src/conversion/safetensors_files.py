"""Weights in .safetensors, with torchvision's names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Mapping

import numpy as np
from safetensors import deserialize
from safetensors.numpy import save

from src.checkpoint import CARD_KEY
from src.conversion.source import BFLOAT16, Foreign, read_card, read_weights, weights_among, write_card
from src.model_card import ModelCard

_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": BFLOAT16,
    "I64": "<i8",
    "I32": "<i4",
    "I8": "i1",
    "U8": "u1",
}
_LENGTH = 8  # Bytes of the header's length, before the header, which is JSON.


def read_safetensors(path: Path) -> Foreign:
    """Read the tensors of a file, and the model card in the metadata if convert.py wrote the file."""
    content = read_weights(path)
    arrays = {name: _array(name, tensor) for name, tensor in deserialize(content)}  # It checks the header first.
    tensors, notes = weights_among(arrays)
    header = json.loads(content[_LENGTH : _LENGTH + int.from_bytes(content[:_LENGTH], "little")])
    return Foreign(tensors, {}, read_card(header.get("__metadata__", {}).get(CARD_KEY), path), notes=notes)


def _array(name: str, tensor: Mapping[str, Any]) -> np.ndarray:
    if tensor["dtype"] not in _TYPES:
        raise ValueError(f"{name} is {tensor['dtype']}; save it as float32")
    return np.frombuffer(tensor["data"], _TYPES[tensor["dtype"]]).reshape(tensor["shape"])


def write_safetensors(tensors: Mapping[str, np.ndarray], card: ModelCard) -> bytes:
    """Return the content of a file with these tensors, and with the model card in the metadata."""
    return save(dict(tensors), {CARD_KEY: write_card(card)})
