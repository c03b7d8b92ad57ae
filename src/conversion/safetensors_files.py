"""Weights in .safetensors, with torchvision's names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Mapping

import numpy as np
from safetensors.numpy import load, save

from src.checkpoint import CARD_KEY
from src.conversion.source import Foreign, read_card, read_weights, to_float32, write_card
from src.model_card import ModelCard

_LENGTH = 8  # Bytes of the header's length, before the header, which is JSON.


def read_safetensors(path: Path) -> Foreign:
    """Read the tensors of a file, and the model card in the metadata if convert.py wrote the file."""
    content = read_weights(path)
    tensors = {name: to_float32(name, array) for name, array in load(content).items()}  # It checks the header first.
    header = json.loads(content[_LENGTH : _LENGTH + int.from_bytes(content[:_LENGTH], "little")])
    return Foreign(tensors, {}, read_card(header.get("__metadata__", {}).get(CARD_KEY), path))


def write_safetensors(tensors: Mapping[str, np.ndarray], card: ModelCard) -> bytes:
    """Return the content of a file with these tensors, and with the model card in the metadata."""
    return save(dict(tensors), {CARD_KEY: write_card(card)})
