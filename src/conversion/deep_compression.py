"""Reader of the authors' compressed SqueezeNet (https://github.com/songhan/SqueezeNet-Deep-Compression).

The file `compressed_SqueezeNet.net` has a header of 26 numbers, and neither names nor shapes: the network must be known
in advance. It is v1.0 for ImageNet's 1000 classes with a padded last convolution and Caffe's input: BGR from 0 to 255
minus a mean.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from src.checkpoint import FIRST
from src.cli.errors import UserError
from src.conversion import names
from src.conversion.origins import CAFFE
from src.conversion.source import Foreign, read_weights
from src.files.bounded import read_text
from src.model_card import ModelCard
from src.network.convolutions import Convolution, convolutions

SUFFIX = ".net"
MAX_NAMES_BYTES = 16 << 20
CLASSES = 1000
# SqueezeNet's arguments for the network of the authors' deploy.prototxt.
MODEL = {"num_classes": CLASSES, "version": "1_0", "classifier_padding": 1}
LAYERS = convolutions(MODEL)  # 26, in the order of the file, which is the network's.
_SLOTS = 256  # Values of a codebook: indices have 8 bits.


def read_published(path: str | Path) -> dict[str, np.ndarray]:
    """Read the weights and biases, float32, by their names in SqueezeNet, in the order of the file.

    Equal to the file's bit for bit, except that the first convolution's input channels are changed from BGR to RGB.
    Raises UserError for another kind of file.
    """
    parameters = decode_published(read_weights(path), path)
    parameters[FIRST] = np.ascontiguousarray(parameters[FIRST][:, ::-1])
    return parameters


def decode_published(data: bytes, path: str | Path) -> dict[str, np.ndarray]:
    """Decode the content of a file, the first convolution's channels in BGR. `path` is for messages."""
    header = 4 * len(LAYERS)
    if len(data) < header:
        raise UserError(f"{path}: {len(data)} bytes are too few for the published SqueezeNet; download it again")
    entries = np.frombuffer(data, "<u4", len(LAYERS)).tolist()
    for layer, count in zip(LAYERS, entries):
        if count > np.prod(layer.shape):
            raise UserError(f"{path}: not the published SqueezeNet: {count:,} entries in {layer.layer} are too many")
    sizes = [4 * _SLOTS + 4 * layer.shape[0] + n + (n + 1) // 2 for layer, n in zip(LAYERS, entries)]
    if header + sum(sizes) != len(data):
        raise UserError(
            f"{path}: not the published SqueezeNet, or cut off: it has {len(data):,} bytes and its header asks for "
            f"{header + sum(sizes):,}; download it again"
        )
    parameters, begin = {}, header
    for layer, count, size in zip(LAYERS, entries, sizes):
        weights, bias = _block(data[begin : begin + size], layer, count, path)
        parameters[f"{layer.layer}.weight"], parameters[f"{layer.layer}.bias"] = weights, bias
        begin += size
    return parameters


def _block(block: bytes, layer: Convolution, count: int, path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Decode the weights and bias of a layer: codebook, bias, 8-bit indices, and 4-bit gaps between the entries."""
    outputs = layer.shape[0]
    codebook = np.frombuffer(block, "<f4", _SLOTS)
    bias = np.frombuffer(block, "<f4", outputs, 4 * _SLOTS)
    indices = np.frombuffer(block, np.uint8, count, 4 * (_SLOTS + outputs))
    packed = np.frombuffer(block, np.uint8, (count + 1) // 2, 4 * (_SLOTS + outputs) + count)
    # The even entry's gap is the low half of a byte; after an odd number of entries the last high half is spare.
    gaps = np.stack([packed & 15, packed >> 4], axis=1).ravel()[:count].astype(np.int64)
    positions = np.cumsum(gaps + 1) - 1
    if count and positions[-1] >= np.prod(layer.shape):
        raise UserError(f"{path}: damaged: a weight of {layer.layer} lies outside the layer; download it again")
    if codebook[0] != 0 or not (np.isfinite(codebook).all() and np.isfinite(bias).all()):
        raise UserError(f"{path}: damaged: invalid values in {layer.layer}; download it again")
    weights = np.zeros(layer.shape, np.float32)
    weights.reshape(-1)[positions] = codebook[indices]
    return weights, bias.copy()


def read_net(path: Path) -> Foreign:
    """Read the weights of a file by their names in Caffe, and the arguments of its network, the only one possible."""
    decoded = decode_published(read_weights(path), path)
    return Foreign({p.name: decoded[p.own] for p in names.parameters(MODEL, names.NAMINGS["caffe"])}, MODEL)


def published_card(classes: str | None = None) -> ModelCard:
    """Return the model card of the authors' network, whose input is 255 times an image from 0 to 1, minus a mean."""
    names = read_class_names(classes, CLASSES) if classes else [str(i) for i in range(CLASSES)]
    return ModelCard(dict(MODEL), names, CAFFE, dataset="image_folder", val_split=0.0)


def read_class_names(path: str, count: int) -> list[str]:
    """Read a text file with one class name per line. Raises UserError unless their number is `count`."""
    names = read_text(path, MAX_NAMES_BYTES, "give --classes a text with a name a line").splitlines()
    if len(names) != count:
        raise UserError(f"{path}: has {len(names)} lines, but the network has {count} classes; give one name per line")
    return names
