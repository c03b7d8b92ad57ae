"""Load and run ONNX models of strangers: with bounds, in float32, and in a process of their own."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from src.cli.errors import UserError
from src.conversion.source import MAX_BYTES, read_weights
from src.files.bounded import read_bytes
from src.files.kinds import explained

_FLOATS = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
# A sound model takes seconds. A damaged one may not come back from onnxruntime, take all memory, or abort the process.
MAX_SECONDS, MAX_MEMORY = 300, 8 << 30
_RUN = f"""
import io, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, ({MAX_MEMORY}, {MAX_MEMORY}))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
except (ImportError, ValueError, OSError):  # Not on every system.
    pass
import numpy, onnxruntime
given = numpy.load(io.BytesIO(sys.stdin.buffer.read()))
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
try:
    session = onnxruntime.InferenceSession(given["model"].tobytes(), options, providers=["CPUExecutionProvider"])
    output = session.run(None, {{session.get_inputs()[0].name: given["inputs"]}})[0]
except Exception as error:
    sys.exit(str(error))
numpy.save(sys.stdout.buffer, output)
"""


def load_model(path: Path) -> onnx.ModelProto:
    """Read a model with the weights in files beside it, and with all floating point numbers in float32.

    Raises UserError for a file of weights that cannot be read, and nearly any exception for a damaged model.
    """
    model = onnx.load_from_string(read_weights(path))
    kinds = sorted({node.op_type for node in model.graph.node})
    if quantised := next((kind for kind in kinds if re.search("(?i)quantize|qlinear|integer", kind)), None):
        raise UserError(f"{path}: is quantised to int8 ({quantised}); convert the float32 model that it was made from")
    _take_in(model, path)
    for tensor in _tensors(model):
        if tensor.data_type in _FLOATS:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(numpy_helper.to_array(tensor), np.float32), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type in _FLOATS:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for attribute in (
        a for node in model.graph.node if node.op_type == "Cast" for a in node.attribute if a.name == "to"
    ):
        attribute.i = TensorProto.FLOAT if attribute.i in _FLOATS else attribute.i
    del model.graph.value_info[:]
    return model


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    yield from model.graph.initializer
    yield from (a.t for node in model.graph.node for a in node.attribute if a.type == onnx.AttributeProto.TENSOR)


def _take_in(model: onnx.ModelProto, path: Path) -> None:
    """Take the tensors in files beside a model into it."""
    files: dict[str, bytes] = {}
    size = 0
    for tensor in _tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        where = {entry.key: entry.value for entry in tensor.external_data}
        location = Path(where["location"])
        if location.is_absolute() or ".." in location.parts:
            raise UserError(f"{path}: its weights are in {location}, outside of its folder; save the model as one file")
        file = path.parent / location
        with explained(file):
            if str(file) not in files:
                advice = f"it has the weights of {path.name}; put both into one folder"
                files[str(file)] = read_bytes(file, MAX_BYTES - sum(map(len, files.values())), advice)
            content = files[str(file)]
            begin = int(where.get("offset", 0))
            length = int(where.get("length", len(content) - begin))
            size += length
            if begin < 0 or length < 0 or begin + length > len(content) or size > MAX_BYTES:
                raise UserError(f"{file}: has {len(content):,} bytes, too few for {path.name}; copy both files again")
        tensor.raw_data = content[begin : begin + length]
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def run_model(model: onnx.ModelProto, inputs: np.ndarray) -> np.ndarray:
    """Return a model's first output. Raises ValueError for a model that does not run."""
    stream = io.BytesIO()
    np.savez(stream, model=np.frombuffer(model.SerializeToString(), np.uint8), inputs=inputs)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _RUN], input=stream.getvalue(), capture_output=True, timeout=MAX_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise ValueError("onnxruntime does not come to an end with it") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").split("\n")
        raise ValueError(
            [f"onnxruntime ended with {done.returncode}", *(f"onnxruntime: {line}" for line in said if line)][-1]
        )
    return np.load(io.BytesIO(done.stdout))
