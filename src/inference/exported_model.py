"""Run an exported model according to its specification."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from src.cli.errors import UserError, first_line
from src.dataset.preprocessing import Preprocessing
from src.devices.silence import silent
from src.files.bounded import open_file, read_bytes

# What is larger is no specification, and would take the memory away: that of ImageNet's 1,000 classes has 40 kB.
MAX_SPEC_BYTES, MAX_BATCH = 16 << 20, 1 << 16


def spec_path(model_path: Path) -> Path:
    """Return the path of the specification next to an exported model."""
    return model_path.with_name(model_path.name + ".json")


def digest(model_path: Path) -> str:
    """Return the SHA-256 of an exported model, which its specification holds as `sha256`."""
    found = hashlib.sha256()
    with open_file(model_path) as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            found.update(chunk)
    return found.hexdigest()


def read_spec(model_path: Path) -> dict[str, Any]:
    """Read the specification of an exported model. Raises UserError for a missing or invalid one."""
    if not os.path.isfile(model_path):  # Path.is_file raises for a name that is too long.
        raise UserError(f"{model_path}: there is no such model")
    path = spec_path(model_path)
    if not os.path.isfile(path):
        raise UserError(f"{path}: not found; keep beside the model the file that export.py wrote with it")
    content = read_bytes(path, MAX_SPEC_BYTES, "export the model again")
    try:
        spec = json.loads(content)
        _check(spec)
        return spec
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        raise UserError(f"{path}: not the specification that export.py writes; export the model again") from None


def _check(spec: dict[str, Any]) -> None:
    """Raise one of several exceptions unless values are the specification of an image model."""
    batch, *sides = spec["input"]["shape"]
    preprocessing = Preprocessing.from_json(spec["preprocessing"])
    size, side, pixels = preprocessing.image_size, preprocessing.side, spec["input"]["dtype"] == "uint8"
    sound = (
        sides == ([side, side, 3] if pixels else [3, size, size]),
        batch is None or (isinstance(batch, int) and 0 < batch <= MAX_BATCH),
        spec["input"]["dtype"] in ("uint8", "float32"),
        spec["output"]["what"] in ("logits", "probabilities"),
        isinstance(spec["classes"], list) and len(spec["classes"]) > 0,
        all(isinstance(name, str) for name in spec["classes"]),
    )
    if not all(sound):
        raise ValueError(f"unsound at {sound.index(False)}")


class ExportedModel:
    """An exported MINDIR or ONNX model. Raises UserError for a missing or damaged file, or one of another kind."""

    def __init__(self, path: Path, spec: dict[str, Any]):
        self.path, self.spec = path, spec
        loaders = {".mindir": _load_mindir, ".onnx": _load_onnx}
        if path.suffix not in loaders:
            raise UserError(f"{path}: not a kind of model that runs here: {' or '.join(loaders)}")
        if "sha256" in spec and spec["sha256"] != digest(path):  # No runtime notices changed weights.
            raise UserError(f"{path}: damaged, or not the model that {self._spec} describes; export it again")
        try:
            with silent():  # The runtimes log as errors of their own what is raised here.
                self.run = loaders[path.suffix](path)
        except Exception as error:  # Each runtime has exceptions of its own for a file it cannot read.
            raise UserError(
                f"{path}: not a {path.suffix[1:].upper()} model, or damaged ({first_line(error)})"
            ) from None

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Return the outputs for any number of inputs, run in batches of the model's size.

        Raises UserError when the model takes or gives something else than its specification says.
        """
        batch = self.spec["input"]["shape"][0]
        if batch is None:
            return self._output(inputs)
        outputs = []
        for start in range(0, len(inputs), batch):
            part = inputs[start : start + batch]
            filled = np.concatenate([part, np.repeat(part[-1:], batch - len(part), 0)])
            outputs.append(self._output(filled)[: len(part)])
        return np.concatenate(outputs)

    def _output(self, inputs: np.ndarray) -> np.ndarray:
        expected = (len(inputs), len(self.spec["classes"]))
        try:
            with silent():
                output = self.run(inputs)
        except Exception as error:  # As above.
            raise UserError(f"{self.path}: does not take what {self._spec} says ({first_line(error)})") from None
        if output.shape != expected:
            raise UserError(f"{self.path}: gives {output.shape} instead of {expected}, which {self._spec} says")
        if not np.isfinite(output).all():
            raise UserError(f"{self.path}: gives values that are not finite; export it from a sound checkpoint")
        return output

    @property
    def _spec(self) -> Path:
        return spec_path(self.path)


def _load_mindir(path: Path):
    import mindspore as ms

    graph = ms.nn.GraphCell(ms.load(str(path)))
    return lambda inputs: graph(ms.Tensor(inputs)).asnumpy()


def _load_onnx(path: Path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # Errors are raised; warnings here concern MindSpore's choice of initialisers.
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda inputs: session.run(None, {name: inputs})[0]
