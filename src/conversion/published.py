"""The authors' compressed_SqueezeNet.net, which src/compression/published.py reads."""

from __future__ import annotations

from pathlib import Path

from src.compression.published import MODEL, decode_published
from src.conversion.names import NAMINGS, parameters
from src.conversion.source import Foreign, read_bytes


def read_net(path: Path) -> Foreign:
    """Return the weights of a file by their names in Caffe, and what is known of the one network that it can hold."""
    decoded = decode_published(read_bytes(path), path)
    return Foreign({parameter.name: decoded[parameter.own] for parameter in parameters(MODEL, NAMINGS["caffe"])}, MODEL)
