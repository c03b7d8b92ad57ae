"""PyTorch's files, as torch.save has written them since 2017, read and written without torch.

Such a file holds a pickle, in which a tensor is a call that names a storage by a persistent id, and the storages. Since
torch 1.6 the file is a zip archive; before, as in torchvision's first files, pickles and storages in sequence. It is
read whether it holds a state_dict, a training's checkpoint with one somewhere in it, or a whole module.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Optional

import numpy as np

from src.checkpoint import CARD_KEY
from src.conversion.source import (
    BFLOAT16,
    MAX_BYTES,
    Foreign,
    read_card,
    read_members,
    read_weights,
    weights_among,
    write_card,
)
from src.files import pickles
from src.model_card import ModelCard

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # Of the files before torch 1.6.
_ZIP = b"PK\x03\x04"
_ADVICE = "save model.state_dict()"
MAX_VALUES = MAX_BYTES // 4  # Of all tensors together, which may share a storage.
_LENGTH = np.dtype("<i8")  # Of a storage, before its values.
_CARD = f"extra/{CARD_KEY}"  # A record in the archive that torch.load passes over.
_MAX_DEPTH, _MAX_NAME = 32, 1000  # Of dictionaries, lists and modules within one another, and of their keys.
# Of a module: its own attributes that hold tensors and modules by name.
_PARTS = ("_parameters", "_buffers", "_modules")
_QUANTISED = "quantised"  # Stand-in for storages of quantised tensors, whose numbers alone are no weights.


class _Storage(NamedTuple):
    """A tensor storage in a file: type, key and number of values."""

    dtype: str | np.dtype
    key: str
    count: int


class _Tensor:
    """Stand-in for torch._utils._rebuild_tensor and _rebuild_tensor_v2, and for the tensor that they return."""

    def __init__(self, storage, offset, shape, strides, requires_grad=False, hooks=(), metadata=None):
        numbers = (offset, *shape, *strides)
        whole = all(type(n) is int and n >= 0 for n in numbers) and isinstance(shape, tuple)
        if not isinstance(storage, _Storage) or not whole:
            raise pickle.UnpicklingError("a tensor is made in another way")
        last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides))
        if len(shape) != len(strides) or last >= storage.count or math.prod(shape) > storage.count:
            raise pickle.UnpicklingError("a tensor has more values than there are")
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def __setstate__(self, state):
        raise pickle.UnpicklingError("a tensor is made in another way")

    def array(self, values: np.ndarray) -> np.ndarray:
        """Return the tensor as a view of the values of its storage."""
        strides = [stride * values.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, strides, writeable=False)


class _OrderedDict(dict):
    """Stand-in for collections.OrderedDict, whose attribute _metadata only torch.nn needs."""

    def __setstate__(self, state):
        pass


class _Parameter:
    """Stand-in for torch._utils._rebuild_parameter, which returns the tensor."""

    def __new__(cls, tensor, *others):
        return tensor

    def __setstate__(self, state):
        pass


class _Object(dict):
    """Stand-in for everything else: holds the attributes and items of an object, and does nothing."""

    def __new__(cls, *arguments, **keywords):
        return super().__new__(cls)

    def __init__(self, *arguments, **keywords):
        super().__init__()

    __hash__, __eq__ = object.__hash__, object.__eq__

    def __setstate__(self, state):
        for attributes in state if isinstance(state, tuple) else (state,):
            self.update(attributes if isinstance(attributes, dict) else {})

    def extend(self, items):
        pass

    append = add = extend


_TYPES = {"Float": "f4", "Half": "f2", "Double": "f8", "Long": "i8", "Int": "i4", "Short": "i2", "Char": "i1"}
_STORAGES = {
    **{("torch", f"{name}Storage"): f"<{code}" for name, code in {**_TYPES, "Byte": "u1", "Bool": "?"}.items()},
    ("torch", "BFloat16Storage"): BFLOAT16,
    **{("torch", f"{name}Storage"): _QUANTISED for name in ("QInt8", "QUInt8", "QInt32")},
}
_MOST = 100_000
_ALLOWED = pickles.Allowed(
    {
        ("collections", "OrderedDict"): _OrderedDict,
        ("torch._utils", "_rebuild_tensor"): _Tensor,
        ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
        ("torch._utils", "_rebuild_parameter"): _Parameter,
        ("torch._utils", "_rebuild_parameter_with_state"): _Parameter,
        **_STORAGES,
    },
    f"{pickles.PLAIN_OPCODES}|{pickles.OBJECT_OPCODES}|BINPERSID|LONG1",
    most=_MOST,
    objects=_MOST,
    otherwise=_Object,
)


def read_torch(path: Path) -> Foreign:
    """Read the weights in a file. Raises nearly any exception for a file without them."""
    content = read_weights(path)
    found, storages, card = _read_zip(content) if content.startswith(_ZIP) else _read_stream(io.BytesIO(content))
    tensors = dict(_tensors(found))
    if not tensors:
        raise ValueError(f"it holds no tensors; {_ADVICE}")
    if sum(math.prod(tensor.shape) for tensor in tensors.values()) > MAX_VALUES:
        raise ValueError("its tensors are too large")
    weights, notes = weights_among({name: tensor.array(storages(tensor.storage)) for name, tensor in tensors.items()})
    return Foreign(weights, {}, read_card(card, path), notes=notes)


def _tensors(value: Any, name: str = "", seen: Optional[set[int]] = None) -> Iterator[tuple[str, _Tensor]]:
    """Yield the tensors in dictionaries, lists and modules, with their names joined by points as in a state_dict."""
    seen = set() if seen is None else seen
    if isinstance(value, _Tensor):
        yield name[1:], value
    elif isinstance(value, (dict, list, tuple)) and id(value) not in seen and name.count(".") < _MAX_DEPTH:
        seen.add(id(value))
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(key, (str, int)) and len(str(key)) < _MAX_NAME:  # Others could be of any size.
                yield from _tensors(part, name if key in _PARTS else f"{name}.{key}", seen)


_Read = tuple[Any, Callable[[_Storage], np.ndarray], Optional[bytes]]


def _read_zip(content: bytes) -> _Read:
    """Read a file since torch 1.6; return what its pickle holds, a function that reads storages, and the card."""
    members = read_members(content)
    folder = next((name[: -len("data.pkl")] for name in members if name.endswith("/data.pkl")), None)
    if folder is None:
        raise ValueError("there is no data.pkl in it")
    if members.get(f"{folder}byteorder", b"little") != b"little":
        raise ValueError("it was written on a machine with another byte order")
    found = pickles.load(io.BytesIO(members[f"{folder}data.pkl"]), _ALLOWED, _persistent)
    return found, lambda storage: _values(members[f"{folder}data/{storage.key}"], storage), members.get(folder + _CARD)


def _read_stream(stream: io.BytesIO) -> _Read:
    """Read a file before torch 1.6; see _read_zip."""
    if pickles.load(stream, _ALLOWED) != _MAGIC or pickles.load(stream, _ALLOWED) != _PROTOCOL:
        raise ValueError("it does not begin as torch.save does")
    if pickles.load(stream, _ALLOWED).get("little_endian") is not True:
        raise ValueError("it was written on a machine with another byte order")
    storages: dict[str, _Storage] = {}

    def persistent(given: Any) -> Any:
        storage = _persistent(given)
        return storages.setdefault(storage.key, storage) if isinstance(storage, _Storage) else storage

    found, contents = pickles.load(stream, _ALLOWED, persistent), {}
    for key in pickles.load(stream, _ALLOWED):
        count = int(np.frombuffer(stream.read(_LENGTH.itemsize), _LENGTH)[0])
        if key not in storages or count != storages[key].count:
            raise ValueError("its storages are not those of its tensors")
        contents[key] = stream.read(count * np.dtype(storages[key].dtype).itemsize)
    return found, lambda storage: _values(contents[storage.key], storage), None


def _persistent(given: Any) -> Any:
    """Return the storage that a persistent id names; before torch 1.6 the id may end in None, or name a class."""
    if given[0] == "module":
        return given[1]
    kind, dtype, key, _, count, *part = given
    if dtype is _QUANTISED:
        raise pickle.UnpicklingError("its weights are quantised; save the network before quantisation")
    whole = part in ([], [None])
    if (
        kind != "storage"
        or dtype not in _STORAGES.values()
        or type(key) is not str
        or type(count) is not int
        or not whole
    ):
        raise pickle.UnpicklingError("a tensor has its values in another way")
    return _Storage(dtype, key, count)


def _values(content: bytes, storage: _Storage) -> np.ndarray:
    values = np.frombuffer(content, storage.dtype)
    if len(values) != storage.count:
        raise ValueError(f"it has {len(values):,} values where there should be {storage.count:,}")
    return values


def write_torch(tensors: Mapping[str, np.ndarray], card: Optional[ModelCard]) -> bytes:
    """Return the content of a file that torch.load reads as a state_dict, also with weights_only, with the card."""
    stream = io.BytesIO()
    contents = {"data.pkl": _pickle(tensors), "byteorder": b"little"}
    contents.update({f"data/{key}": array.tobytes() for key, array in enumerate(tensors.values())})
    contents.update({"version": b"3\n", **({_CARD: write_card(card).encode()} if card else {})})
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)  # Without the time: equal nets, equal files.
    return stream.getvalue()


def _pickle(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Return the pickle of a state_dict, assembled from opcodes, since torch is not installed."""
    empty = _imported("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    parts = [pickle.PROTO + b"\x02", empty, pickle.MARK]
    for key, (name, array) in enumerate(tensors.items()):
        strides = tuple(stride // array.itemsize for stride in array.strides)
        parts += [
            _plain(name),
            *(_imported("torch._utils", "_rebuild_tensor_v2"), pickle.MARK),
            *(pickle.MARK, _plain("storage"), _imported("torch", "FloatStorage"), _plain(str(key)), _plain("cpu")),
            *(_plain(array.size), pickle.TUPLE, pickle.BINPERSID),
            *(_plain(0), _plain(array.shape), _plain(strides), pickle.NEWFALSE, empty, pickle.TUPLE, pickle.REDUCE),
        ]
    return b"".join([*parts, pickle.SETITEMS, pickle.STOP])


def _imported(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _plain(value: Any) -> bytes:
    """Return the opcodes of a built-in value, without PROTO and STOP."""
    return pickle.dumps(value, protocol=2)[2:-1]
