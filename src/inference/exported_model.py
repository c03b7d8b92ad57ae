"""Run exported models according to their specification, each by one of the runtimes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Callable, NamedTuple

import numpy as np

from src.cli.errors import UserError, first_line
from src.dataset.preprocessing import Preprocessing
from src.devices.device import select_device
from src.devices.silence import silent
from src.files.bounded import open_file, read_bytes
from src.files.kinds import convert_command, explained
from src.model_card import ModelCard

# What is larger is no specification, and would take the memory away: that of ImageNet's 1,000 classes has 40 kB.
MAX_SPEC_BYTES, MAX_BATCH = 16 << 20, 1 << 16
# How the name of a .mindir ends that MindSpore Lite's converter has written for an Ascend (scripts/run_infer_310.sh).
CONVERTED = "_310.mindir"
_KINDS = {".mindir": ("mindir",), ".onnx": ("onnx",)}  # Kinds of file by suffix, for messages.

Run = Callable[[np.ndarray], np.ndarray]


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
        converted = "copy it to this name for a converted model"
        other = f"convert a model of another program: {convert_command('onnx', model_path)}"
        raise UserError(
            f"{path}: not found; keep next to the model the file that export.py wrote with it, and "
            f"{other if model_path.suffix == '.onnx' else converted}"
        )
    content = read_bytes(path, MAX_SPEC_BYTES, "export the model again")
    try:
        spec = json.loads(content)
        _check(spec)
        return spec
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        raise UserError(f"{path}: not the specification that export.py writes; export the model again") from None


def card_of(spec: dict[str, Any], path: Path) -> ModelCard:
    """Return the model card in a specification. Raises UserError for a specification without one."""
    names = [field.name for field in dataclasses.fields(ModelCard) if field.name in spec]
    return ModelCard.read({name: spec[name] for name in names}, path)


def _check(spec: dict[str, Any]) -> None:
    """Raise one of several exceptions unless values are the specification of an image model."""
    batch, *sides = spec["input"]["shape"]
    preprocessing = Preprocessing.from_json(spec["preprocessing"])
    size, side, pixels = preprocessing.image_size, preprocessing.side, spec["input"]["dtype"] == "uint8"
    sound = (
        sides == ([side, side, 3] if pixels else [preprocessing.channels, size, size]),
        batch is None or (isinstance(batch, int) and 0 < batch <= MAX_BATCH),
        spec["input"]["dtype"] in ("uint8", "float32"),
        spec["output"]["what"] in ("logits", "probabilities"),
        isinstance(spec["classes"], list) and len(spec["classes"]) > 0,
        all(isinstance(name, str) for name in spec["classes"]),
    )
    if not all(sound):
        raise ValueError(f"unsound at {sound.index(False)}")


class ExportedModel:
    """An exported model that runs. Raises UserError for a missing or damaged file, or one of another kind.

    runtime: a name in RUNTIMES; None: the one for files of this name.
    device, device_id: where it computes, of RUNTIMES[runtime].select.
    """

    def __init__(
        self, path: Path, spec: dict[str, Any], runtime: str | None = None, device: str = "CPU", device_id: int = 0
    ):
        self.path, self.spec, self.device = path, spec, device
        self.runtime = runtime or runtime_of(path)
        self.preprocessing = Preprocessing.from_json(spec["preprocessing"])
        self.takes_pixels = spec["input"]["dtype"] == "uint8"
        # No runtime notices changed weights. The digest is the exported file's, and Lite also runs converted ones.
        if self.runtime != "lite" and "sha256" in spec and spec["sha256"] != digest(path):
            raise UserError(f"{path}: damaged, or not the model that {self._spec} describes; export it again")
        try:
            with silent():  # The runtimes log as errors of their own what is raised here.
                self.run = RUNTIMES[self.runtime].load(path, device, device_id)
        except UserError:
            raise
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

    def logits(self, inputs: np.ndarray) -> np.ndarray:
        """Return logits, or log probabilities, which have the same softmax, if the model returns probabilities."""
        output = self(inputs)
        given = self.spec["output"]["what"] == "logits"
        return output if given else np.log(np.maximum(output, np.finfo(np.float32).tiny))

    @property
    def card(self) -> ModelCard:
        """The network's model card. Raises UserError for a specification without one."""
        return card_of(self.spec, self._spec)

    @property
    def _spec(self) -> Path:
        return spec_path(self.path)


def open_model(path: str | Path, runtime: str | None, device: Any) -> ExportedModel:
    """Open an exported model on a device. Raises UserError for an unusable model.

    runtime: see ExportedModel. device: a DeviceConfig.
    """
    path = Path(path)
    with explained(path, *_KINDS.get(path.suffix, ("mindir", "onnx"))):
        runtime = runtime or runtime_of(path)
        if path.suffix not in RUNTIMES[runtime].suffixes:
            takes = " and ".join(RUNTIMES[runtime].suffixes)
            raise UserError(f"{path}: {runtime} runs {takes} files; choose another --runtime, or convert the model")
        spec = read_spec(path)
        return ExportedModel(path, spec, runtime, RUNTIMES[runtime].select(path, device), device.device_id)


def runtime_of(path: Path) -> str:
    """Return the name of the runtime for a file, by its suffix. Raises UserError for an unknown suffix."""
    if path.name.endswith(CONVERTED):
        return "lite"
    if path.suffix in (".ckpt", ".sqz"):
        raise UserError(f"{path}: is a checkpoint, not an exported model; give it with --ckpt_path")
    names = [name for name, runtime in RUNTIMES.items() if path.suffix in runtime.suffixes]
    if not names:
        known = dict.fromkeys(suffix for runtime in RUNTIMES.values() for suffix in runtime.suffixes)
        raise UserError(f"{path}: not a kind of model that runs here: {' or '.join(known)}")
    return names[0]


def _load_mindspore(path: Path, device: str, device_id: int) -> Run:
    import mindspore as ms

    graph = ms.nn.GraphCell(ms.load(str(path)))
    return lambda inputs: graph(ms.Tensor(inputs)).asnumpy()


def _load_onnxruntime(path: Path, device: str, device_id: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # Errors are raised; warnings here concern MindSpore's choice of initialisers.
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda inputs: session.run(None, {name: inputs})[0]


def _load_lite(path: Path, device: str, device_id: int) -> Run:
    try:
        import mindspore_lite as lite
    except ImportError as error:
        raise UserError(
            "runtime: lite needs mindspore_lite, a wheel from https://www.mindspore.cn/lite (not PyPI) "
            f"[{first_line(error)}]"
        ) from None
    context = lite.Context()
    context.target = [device.lower()]
    if device == "Ascend":
        context.ascend.device_id = device_id
    model = lite.Model()
    kind = lite.ModelType.MINDIR_LITE if path.suffix == ".ms" else lite.ModelType.MINDIR
    model.build_from_file(str(path), kind, context)

    def run(inputs: np.ndarray) -> np.ndarray:
        tensor = model.get_inputs()[0]
        # The converter makes of NCHW the NHWC that its kernels take; the other way round it may do for an Ascend.
        orders = [(0, 1, 2, 3), (0, 2, 3, 1), (0, 3, 1, 2)]
        fitting = (order for order in orders if [inputs.shape[axis] for axis in order[1:]] == list(tensor.shape[1:]))
        inputs = np.ascontiguousarray(inputs.transpose(next(fitting, orders[0])))
        if list(tensor.shape) != list(inputs.shape):  # Of a dynamic batch, or of one of several.
            model.resize([tensor], [list(inputs.shape)])
            tensor = model.get_inputs()[0]
        tensor.set_data_from_numpy(inputs)
        return model.predict([tensor])[0].get_data_to_numpy().astype(np.float32)

    return run


def _lite_device(path: Path, config: Any) -> str:
    if config.device_target == "auto":
        return "CPU" if path.suffix == ".ms" else "Ascend"
    return config.device_target


class Runtime(NamedTuple):
    """A library that runs exported models.

    suffixes: of the files it runs.
    select: (file, DeviceConfig) -> name of the device it computes on, which is made ready.
    load: (file, device, device_id) -> function from inputs to output. Raises anything for a file that it cannot read.
    """

    suffixes: tuple[str, ...]
    select: Callable[[Path, Any], str]
    load: Callable[[Path, str, int], Run]


# A file's own runtime is the first that takes its suffix.
RUNTIMES = {
    "mindspore": Runtime((".mindir",), lambda path, config: select_device(config), _load_mindspore),
    "onnxruntime": Runtime((".onnx",), lambda path, config: "CPU", _load_onnxruntime),
    "lite": Runtime((".ms", ".mindir"), _lite_device, _load_lite),
}
