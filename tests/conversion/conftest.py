"""Networks with random weights, and files of them as other systems write them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from src.conversion.config import ConvertConfig
from src.conversion.names import NAMINGS, parameters

SMALL = {"num_classes": 10, "version": "cifar"}


def random_tensors(model: dict, naming: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Return random weights of a network by their names in another system."""
    random = np.random.RandomState(seed)
    found = parameters(model, NAMINGS[naming])
    return {p.name: random.standard_normal(p.shape).astype(np.float32) * 0.1 for p in found}


def config(file_format: str, file: Path, **others) -> ConvertConfig:
    """Return the configuration that reads a file."""
    return ConvertConfig(str(file), "net.ckpt", from_format=file_format, **others)


@pytest.fixture(scope="session")
def small_onnx(tmp_path_factory) -> SimpleNamespace:
    """Paths of a small net with simple bypass, which rounds up, and of its ONNX export, without the specification."""
    from src.checkpoint import save_checkpoint
    from src.config import DeviceConfig
    from src.dataset.preprocessing import Preprocessing
    from src.inference.config import ExportConfig
    from src.inference.export import export_checkpoint
    from src.inference.exported_model import spec_path
    from src.model_card import ModelCard
    from src.squeezenet import SqueezeNet

    folder = tmp_path_factory.mktemp("onnx")
    model = {**SMALL, "bypass": "simple", "ceil_mode": True, "classifier_padding": 1, "final_relu": False}
    preprocessing = Preprocessing(15, "resize", "dataset", (0.5,) * 3, (0.25,) * 3)
    card = ModelCard(model, [str(i) for i in range(10)], preprocessing, "digits", 0.0)
    save_checkpoint(SqueezeNet(**model).set_train(False), folder / "net.ckpt", card)
    made = export_checkpoint(ExportConfig(str(folder / "net.ckpt"), "ONNX"), DeviceConfig(device_target="CPU"))
    spec = spec_path(Path(made["file"])).rename(folder / "specification.json")
    return SimpleNamespace(ckpt=folder / "net.ckpt", onnx=Path(made["file"]), spec=spec, model=model)
