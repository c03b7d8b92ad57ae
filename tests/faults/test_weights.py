"""Files of weights from elsewhere, damaged on purpose: one line, or read as they are."""

from __future__ import annotations

import numpy as np
import pytest

from src.conversion.converting import FORMATS, import_network
from src.dataset.preprocessing import Preprocessing
from src.model_card import ModelCard
from tests.conversion.made_caffemodel import MODEL, caffemodel
from tests.conversion.made_weights import SMALL, config, random_tensors
from tests.made_data import refusal


def written(file_format: str) -> bytes:
    if file_format == "caffemodel":
        return caffemodel()
    form = FORMATS[file_format]
    card = ModelCard(SMALL, ["a"] * 10, Preprocessing(32, "resize", "dataset", (0.5,) * 3, (0.5,) * 3), "digits", 0.0)
    return form.write(random_tensors(SMALL, form.naming), card)


@pytest.mark.parametrize("file_format", ["torchvision", "safetensors", "npz", "caffemodel"])
def test_damaged_files_of_weights_are_refused_or_read_whole(faults, tmp_path, file_format):
    whole, random = written(file_format), np.random.RandomState(0)
    path = tmp_path / "net"
    with faults(f"damaged weights, {file_format}", "refused, or read whole") as inject:
        for size in [*range(0, 200, 8), *random.randint(200, len(whole), 15).tolist()]:
            path.write_bytes(whole[:size])
            with inject.fault(f"cut at {size}"):
                assert refusal(import_network, config(file_format, path)).startswith(str(path))
        # Where names, shapes and numbers are; a flipped bit in a weight cannot be noticed in each of the formats.
        structure = [*random.randint(0, 3000, 20), *random.randint(len(whole) - 3000, len(whole), 10)]
        for position in structure:
            damaged = bytearray(whole)
            damaged[position] ^= 1 << random.randint(8)
            path.write_bytes(damaged)
            with inject.fault(f"bit flipped at {position}"):
                try:
                    _, card = import_network(config(file_format, path))
                except Exception:
                    assert refusal(import_network, config(file_format, path)).startswith(str(path))
                else:
                    assert card.model["version"] == (MODEL if file_format == "caffemodel" else SMALL)["version"]
