"""Result type and size limits shared by the readers of all formats."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any, Callable, Mapping, NamedTuple, Optional, Union

import numpy as np

from src.checkpoint import FIRST
from src.conversion.names import NAMINGS
from src.conversion.origins import Origin
from src.files.bounded import read_bytes
from src.model_card import ModelCard
from src.squeezenet import SqueezeNet

# Far above any SqueezeNet (for ImageNet-21k 48 MB), but a typing error or a bomb cannot exhaust the memory.
MAX_BYTES, MAX_MEMBERS = 256 << 20, 10_000
BFLOAT16 = np.dtype([("bfloat16", "<u2")])  # numpy has none.
# Parts of names that DataParallel, torch.compile and the like insert.
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|(_\w+_)?module)\.")


class Foreign(NamedTuple):
    """Content of a file of another framework.

    tensors: float32, by their names in the file.
    facts: arguments of SqueezeNet that the file reveals in addition to names and shapes.
    card: the model card, in a file written by this project.
    image_size: side of the images in pixels, if the file contains it.
    check: raises ValueError for a network that visibly differs from the file's.
    origin: where the weights come from, if the file shows it.
    notes: lines that say what of the file was left out.
    normalization: mean and std of images from 0 to 1, of a model that normalises them itself.
    """

    tensors: dict[str, np.ndarray]
    facts: dict[str, Any]
    card: Optional[ModelCard] = None
    image_size: Optional[int] = None
    check: Optional[Callable[[SqueezeNet], Any]] = None
    origin: Optional[Origin] = None
    notes: tuple[str, ...] = ()
    normalization: Optional[dict[str, tuple[float, ...]]] = None


def read_weights(path: Path) -> bytes:
    """Return the content of a file of weights. Raises UserError for an unreadable or too large file."""
    return read_bytes(path, MAX_BYTES, "give a file of SqueezeNet's weights")


def read_card(content: Union[str, bytes, None], path: Path) -> Optional[ModelCard]:
    """Return the model card that convert.py stored in a file of another framework as JSON, or None."""
    return None if content is None else ModelCard.read(json.loads(content), path)


def write_card(card: ModelCard) -> str:
    """Return a model card as JSON, as read_card takes it."""
    return json.dumps(card.to_json())


def read_members(content: bytes) -> dict[str, bytes]:
    """Return the files in a zip archive. Raises ValueError or an exception of zipfile for a damaged archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        if len(members) > MAX_MEMBERS or sum(member.file_size for member in members) > MAX_BYTES:
            raise ValueError(f"it would unpack to more than {MAX_BYTES >> 20} MiB, or {MAX_MEMBERS:,} files")
        found = {member.filename: archive.read(member) for member in members}
    if len(found) != len(members):
        raise ValueError("two of its files have one name")
    return found


def to_float32(name: str, array: np.ndarray) -> np.ndarray:
    """Convert an array of floating point numbers to float32. Raises ValueError for other types."""
    if array.dtype == BFLOAT16:  # The upper halves of float32 numbers.
        array = (array["bfloat16"].astype(np.uint32) << 16).view(np.float32)
    if array.dtype not in (np.float64, np.float32, np.float16):
        raise ValueError(f"{name} is {array.dtype}, as in a quantised network; save the network before quantisation")
    with np.errstate(over="ignore"):  # Infinite numbers are refused later.
        return np.ascontiguousarray(array, np.float32)


def weights_among(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the weights of a network, float32, among the arrays of a training, and lines that say what was left out.

    Takes off what a training, a module around the network or a wrapper puts before the names that NAMINGS has. Leaves
    out counters, and arrays without that prefix. Raises ValueError for weights that are not floating point numbers.
    """
    named = {_WRAPPERS.sub("", name): array for name, array in arrays.items()}
    if len(named) != len(arrays):
        raise ValueError("two of its tensors have one name")
    firsts = {f"{naming.stem}.weight" if naming else FIRST for naming in NAMINGS.values()}
    found = [name[: -len(first)] for name in named for first in firsts if f".{name}".endswith(f".{first}")]
    # Without those of other layers that are called like a first one.
    found = [end for end in dict.fromkeys(found) if not any(end != e and end.startswith(e) for e in found)]
    prefix, *others = found or [""]
    notes = (f"taken: the weights under {prefix}, and not those under {', '.join(others)}",) if others else ()
    return {
        name[len(prefix) :]: to_float32(name, array)
        for name, array in named.items()
        if name.startswith(prefix) and (array.ndim or array.dtype.kind != "i")
    }, notes
