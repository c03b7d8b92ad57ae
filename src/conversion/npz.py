"""Weights in numpy's .npz, named as in the authors' Caffe networks: conv1.weight, fire2/squeeze1x1.bias, ..."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Mapping

import numpy as np

from src.checkpoint import CARD_KEY
from src.conversion.source import Foreign, read_card, read_members, read_weights, weights_among, write_card
from src.model_card import ModelCard

_ENDING = ".npy"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npz(path: Path) -> Foreign:
    """Read the arrays of an .npz file. Raises ValueError, or an exception of numpy or zipfile, for a damaged file."""
    arrays = {
        name.removesuffix(_ENDING): _array(name, member) for name, member in read_members(read_weights(path)).items()
    }
    card = arrays.pop(CARD_KEY, None)
    tensors, notes = weights_among(arrays)
    return Foreign(tensors, {}, read_card(None if card is None else card.tobytes(), path), notes=notes)


def write_npz(tensors: Mapping[str, np.ndarray], card: ModelCard) -> bytes:
    """Return the content of an .npz file with these arrays and the model card as JSON bytes."""
    stream = io.BytesIO()
    np.savez(stream, **tensors, **{CARD_KEY: np.frombuffer(write_card(card).encode(), np.uint8)})
    return stream.getvalue()


def _array(name: str, member: bytes) -> np.ndarray:
    """Return the array of an .npy file; numpy's own reader would allocate memory before checking the file's size."""
    stream = io.BytesIO(member)
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"{name} is of an unknown version of numpy's format")
    shape, fortran_order, dtype = _HEADERS[version](stream)
    if dtype.hasobject:
        raise ValueError(f"{name} holds objects of Python")
    return np.frombuffer(member[stream.tell() :], dtype).reshape(shape, order="F" if fortran_order else "C")
