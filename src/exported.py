"""An exported model and its specification, to run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from src.dataset.transforms import Preprocessing
from src.errors import UserError
from src.quiet import silent


def spec_path(model_path: Path) -> Path:
    """Return the file of the specification that lies beside an exported model."""
    return model_path.with_name(model_path.name + ".json")


def read_spec(model_path: Path) -> dict[str, Any]:
    """Return the specification of an exported model. Raises UserError when it is missing or none."""
    if not model_path.is_file():
        raise UserError(f"{model_path}: there is no such model")
    path = spec_path(model_path)
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
        spec["input"]["shape"], spec["input"]["dtype"], spec["output"]["what"], spec["classes"]
        Preprocessing.from_json(spec["preprocessing"])
        return spec
    except OSError:
        raise UserError(f"{path}: not found; keep beside the model the file that export.py wrote with it") from None
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path}: not the specification that export.py writes; export the model again") from None


class ExportedModel:
    """A MINDIR or ONNX file that runs. Raises UserError for a file that is missing, damaged or of another kind."""

    def __init__(self, path: Path, spec: dict[str, Any]):
        self.path, self.spec = path, spec
        loaders = {".mindir": _load_mindir, ".onnx": _load_onnx}
        if path.suffix not in loaders:
            raise UserError(f"{path}: not a kind of model that runs here: {' or '.join(loaders)}")
        try:
            with silent():  # The runtimes log as errors of their own what is raised here.
                self.run = loaders[path.suffix](path)
        except Exception as error:  # Each runtime has exceptions of its own for a file it cannot read.
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"{path}: not a {path.suffix[1:].upper()} model, or damaged ({reason})") from None

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Return the output for inputs of any number, run in batches of the model's size."""
        batch = self.spec["input"]["shape"][0]
        if batch is None:
            return self.run(inputs)
        outputs = []
        for start in range(0, len(inputs), batch):
            part = inputs[start : start + batch]
            filled = np.concatenate([part, np.repeat(part[-1:], batch - len(part), 0)])
            outputs.append(self.run(filled)[: len(part)])
        return np.concatenate(outputs)


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
