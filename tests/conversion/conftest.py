"""A network of random weights and its ONNX export."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

from tests.conversion.made_weights import SMALL


@pytest.fixture(scope="session")
def small_onnx(tmp_path_factory) -> SimpleNamespace:
    """Paths of a small net with simple bypass, which rounds up, and of its ONNX export, bare or with its model card."""
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
    whole, bare = onnx.load(made["file"]), folder / "bare.onnx"
    del whole.metadata_props[:]
    onnx.save(whole, bare)
    return SimpleNamespace(ckpt=folder / "net.ckpt", onnx=bare, with_card=Path(made["file"]), spec=spec, model=model)
