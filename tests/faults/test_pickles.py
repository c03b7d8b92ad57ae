"""Pickles of CIFAR-10 from strangers: read without running anything in them, and without much memory."""

from __future__ import annotations

import codecs
import functools
import io
import operator
import os
import pickle
import resource
import runpy
import struct
import subprocess
import tracemalloc

import numpy as np
import pytest

from src.dataset.cifar10 import MAX_PICKLE_BYTES, open_cifar10
from tests.made_data import read_pickle, refusal, write_cifar10

# What reading a hostile file may take: the file itself, of 32 MiB at most, some three times over.
MEMORY = 100 << 20


@pytest.fixture
def made(tmp_path, made_images):
    """A data folder with CIFAR-10 of 20 images a batch."""
    train, test = made_images.train, made_images.test
    write_cifar10(tmp_path, (train.images, train.labels), (test.images, test.labels))
    return tmp_path


@pytest.fixture(autouse=True)
def little_memory():
    """Let an allocation fail which would harm the machine that the tests run on; the peak is measured besides."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Persistent:
    """Pickles as a persistent id, by `persistent` below."""


def called(module: str, name: str, argument: str) -> bytes:
    """A pickle that calls a function by its name, also one that this Python lacks."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"U" + bytes([len(argument)]) + argument.encode() + b"\x85R."


def persistent() -> bytes:
    """A pickle that asks whoever reads it for an object of its own."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return "evil" if isinstance(value, Persistent) else None

    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump({"data": Persistent()})
    return stream.getvalue()


def code(trace: str) -> dict[str, bytes]:
    """Pickles that make the file `trace`, or call or make what no batch of images needs."""
    touch, write = f"touch {trace}", f"open({trace!r}, 'w')"
    calls = {
        "os.system": Call(os.system, touch),
        "os.popen": Call(os.popen, touch),
        "subprocess.Popen": Call(subprocess.Popen, ["touch", trace]),
        "subprocess.check_output": Call(subprocess.check_output, ["touch", trace]),
        "builtins.eval": Call(eval, write),
        "builtins.exec": Call(exec, write),
        "builtins.open": Call(open, trace, "w"),
        "builtins.getattr": Call(getattr, Call(__import__, "os"), "system"),
        "builtins.__import__": Call(__import__, "antigravity"),
        "builtins.map": Call(list, Call(map, os.system, [touch])),
        "functools.partial": Call(functools.partial(os.system, touch)),
        "functools.reduce": Call(functools.reduce, os.system, [touch]),
        "operator.methodcaller": operator.methodcaller("system", touch),
        "runpy": Call(runpy.run_path, trace),
        "codecs.encode": Call(codecs.encode, "evil", "latin1"),
        "numpy.load": Call(np.load, trace),
        "numpy.fromfile": Call(np.fromfile, trace),
        "numpy.random pickle": np.random.RandomState(0),
        "an array of objects": np.array([Call(os.system, touch)], object),
        "an array of arrays": np.array([np.zeros(1), None], object),
        "a numpy scalar": np.float64(1),
        "a set": {1},
        "an exception": ValueError("x"),
    }
    pickles = {
        f"{name}, protocol {protocol}": pickle.dumps({"data": 1, "labels": value}, protocol=protocol)
        for name, value in calls.items()
        for protocol in (0, 2, 4)
    }
    for module, name in (("posix", "system"), ("__builtin__", "eval"), ("os", "system"), ("numpy", "dtype.__class__")):
        pickles[f"{module}.{name} by name"] = called(module, name, touch)
    pickles["STACK_GLOBAL"] = b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R."
    pickles["INST"] = b"(S'true'\nios\nsystem\n."
    pickles["OBJ"] = b"(cos\nsystem\nU\x04trueo."
    pickles["NEWOBJ"] = b"\x80\x02cnumpy\nndarray\nK\x01\x85\x81."
    pickles["EXT1"], pickles["EXT2"], pickles["EXT4"] = b"\x80\x02\x82\x01.", b"\x80\x02\x83\x01\x00.", b"\x84\1\0\0\0."
    pickles["a persistent id"], pickles["a persistent id as text"] = persistent(), b"Pevil\n."
    # What is allowed, put to another use.
    pickles["BUILD on a class"] = b"\x80\x02cnumpy\ndtype\n}U\x0a__bases__sNsb."
    pickles["BUILD on a function"] = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nN}U\x08__code__Ns\x86b."
    pickles["a dtype of objects"] = b"\x80\x02cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R."
    pickles["a call of a text"] = b"\x80\x02U\x09os.systemU\x04true\x85R."
    pickles["_reconstruct of a dtype"] = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85U\x01b\x87R."
    )
    return pickles


def array(shape: bytes, content: bytes, reconstructed: bytes = b"K\x00\x85") -> bytes:
    """The opcodes of a uint8 array as Python 2 writes it, of these opcodes of its shape and content."""
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + reconstructed + b"U\x01b\x87R"
    return start + b"(K\x01" + shape + dtype + b"\x89" + content + b"tb"


def large(size: int) -> bytes:
    """The opcodes of a byte string of this size."""
    return b"T" + struct.pack("<i", size) + bytes(size)


def bombs() -> dict[str, bytes]:
    """Short pickles that a plain unpickler would make much of, and one that is long."""
    huge = b"\xff\xff\xff\x7f"
    data = b"\x80\x02}(U\x04data"
    labels = b"\x80\x02}(U\x06labels"
    doubled = b"]q\x00" + b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(60))
    many_arrays = b"\x80\x02]" + large(1 << 20) + b"q\x00" + array(b"J\x00\x00\x10\x00\x85", b"h\x00") * 3000 + b"."
    return {
        "nested lists": b"\x80\x02" + b"]" * 90_000 + b"a" * 89_999 + b".",
        "nested lists, deeper": b"\x80\x02" + b"]" * 2_000_000 + b"a" * 1_999_999 + b".",
        "nested tuples": b"\x80\x02)" + b"\x85" * 2_000_000 + b".",
        "nested dictionaries": b"\x80\x02" + b"}K\x00" * 500_000 + b"N" + b"s" * 500_000 + b".",
        "nested labels": labels + b"](" + b"]" * 50_000 + b"a" * 49_999 + b"eu.",
        "marks": b"(" * 5_000_000,
        "empty lists": b"\x80\x02(" + b"]" * 10_000_000 + b"l.",
        "doubled by the memo": labels + doubled + b"u.",
        "doubled by DUP": b"\x80\x02]" + b"2a" * 50_000 + b".",
        "many arrays of one text": many_arrays,
        "LONG4 of 2 GiB": labels + b"\x8b" + huge + b"u.",
        "LONG of many digits": labels + b"L" + b"9" * 1_000_000 + b"L\nu.",
        "INT of many digits": labels + b"I" + b"9" * 1_000_000 + b"\nu.",
        "BINBYTES of 2 GiB": data + b"B" + huge + b"xu.",
        "BINBYTES8 of 8 EiB": data + b"\x8e" + b"\xff" * 7 + b"\x7f" + b"xu.",
        "BYTEARRAY8 of 1 TiB": data + b"\x96" + struct.pack("<Q", 1 << 40) + b"xu.",
        "BINUNICODE8 of 1 TiB": data + b"\x8d" + struct.pack("<Q", 1 << 40) + b"xu.",
        "BINSTRING of 2 GiB": data + b"T" + huge + b"xu.",
        "BINSTRING of -1": data + b"T" + b"\xff" * 4 + b"xu.",
        "FRAME of 1 TiB": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"N.",
        "LONG_BINPUT of 2^31": b"\x80\x02}r" + huge + b".",
        "LONG_BINPUT of 2^28": b"\x80\x02}r" + struct.pack("<I", 1 << 28) + b".",
        "PUT of 2^62": b"\x80\x02}p4611686018427387904\n.",
        "_reconstruct of a huge shape": data
        + array(b"K\x01\x85", b"U\x01x", b"J" + huge + b"J" + huge + b"\x86")
        + b"u.",
        "an array of a huge shape": data + array(b"J" + huge + b"J" + huge + b"\x86", b"U\x01x") + b"u.",
        "an array of a negative shape": data + array(b"J" + b"\xff" * 4 + b"\x85", b"U\x01x") + b"u.",
        "an array as its own content": data + array(b"K\x01\x85", b"]") + b"u.",
        "a text too many": data + large(MAX_PICKLE_BYTES) + b"u.",
    }


def require_refused(file, split: str) -> None:
    """Check that a data set is refused with the name of a file, and within MEMORY."""
    tracemalloc.start()
    try:
        message = refusal(open_cifar10, file.parent.parent, split)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert message.startswith(str(file)) and "fetch the data set again" in message
    assert len(message) < len(str(file)) + 500 and message.isprintable()
    assert "Memory" not in message and peak < MEMORY, f"took {peak >> 20} MiB"


def test_code_in_pickles_is_refused_and_does_not_run(faults, made):
    trace = made / "ran"
    before = [read_pickle(made / "cifar-10-batches-py" / name) for name in ("batches.meta", "test_batch")]
    hostile, ran = code(str(trace)), 0
    for what in ("os.system", "builtins.eval", "subprocess.check_output"):
        pickle.loads(hostile[f"{what}, protocol 2"])
        trace.unlink()  # It was made: this is what mindvision would have done.
    with faults("hostile pickles", "refused") as inject:
        for what, content in hostile.items():
            for name, whole in zip(("batches.meta", "test_batch"), before):
                file = made / "cifar-10-batches-py" / name
                kept = file.read_bytes()
                file.write_bytes(content)
                with inject.fault(f"{what} as {name}"):
                    require_refused(file, "test")
                    assert not trace.exists()
                ran += trace.exists()
                file.write_bytes(kept)
                assert read_pickle(file).keys() == whole.keys()
        inject.notes.append(f"{ran} ran code")


@pytest.mark.thorough
def test_memory_bombs_in_pickles_are_refused(faults, made):
    file = made / "cifar-10-batches-py" / "test_batch"
    with faults("memory bombs in pickles", "refused") as inject:
        for what, content in bombs().items():
            file.write_bytes(content)
            with inject.fault(what):
                require_refused(file, "test")
        inject.notes.append(f"each below {MEMORY >> 20} MiB")


def test_damaged_pickles_are_refused_or_read_as_they_are(faults, made):
    """A flipped bit within the pixels cannot be noticed; anywhere else it is refused, or is one in a label."""
    file = made / "cifar-10-batches-py" / "test_batch"
    whole, random = file.read_bytes(), np.random.RandomState(0)
    structure = [i for i in range(len(whole)) if i < 300 or i > len(whole) - 600]
    with faults("damaged pickles", "refused, or read whole") as inject:
        for size in [*range(0, 400, 4), *random.randint(400, len(whole), 50).tolist()]:
            file.write_bytes(whole[:size])
            with inject.fault(f"cut at {size}"):
                require_refused(file, "test")
        for position in random.choice(structure, 300).tolist():
            damaged = bytearray(whole)
            damaged[position] ^= 1 << random.randint(8)
            file.write_bytes(damaged)
            with inject.fault(f"bit flipped at {position}"):
                try:
                    source = open_cifar10(made, "test")
                except Exception:
                    require_refused(file, "test")
                else:
                    assert source.images.shape == (20, 32, 32, 3) and set(source.labels) <= set(range(10))
