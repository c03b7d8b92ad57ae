"""Configuration of eval.py, infer.py and export.py."""

from __future__ import annotations

import dataclasses
from typing import Literal, Optional

from src.cli.types import Count, Side
from src.dataset.options import DataLoadingConfig, Dataset
from src.dataset.preprocessing import RESIZERS

# Keys of positional arguments by suffix.
CHECKPOINTS = {".ckpt": "ckpt_path", ".sqz": "ckpt_path"}
MODELS_AND_IMAGES = {**CHECKPOINTS, ".mindir": "model_path", ".onnx": "model_path", "": "images"}


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoint."""

    ckpt_path: str
    """checkpoint (.ckpt or .sqz)"""


@dataclasses.dataclass(frozen=True)
class EvalConfig(DataLoadingConfig, CheckpointConfig):
    """Evaluation: the network, its image size and its normalisation come from the checkpoint."""

    dataset: Optional[Dataset] = None
    """data set; null: the one that the checkpoint was trained on"""
    split: Optional[Literal["train", "val", "test"]] = None
    """split of the data set; null: test, or val if the data set has no test images"""
    batch_size: Count = 32
    """images per step"""
    resizer: Optional[Literal[RESIZERS]] = None
    """resizing of images: mindspore, a fast operator, pillow, the exact one for ImageNet networks, or device, in the
    graph, if all images have one size; null: the checkpoint's own"""
    tta: Literal["none", "flip"] = "none"
    """test-time augmentation; flip: average the outputs for an image and its mirror image, at twice the work"""
    output_path: Optional[str] = None
    """folder for result.json, the confusion matrix and the gallery; null: eval_<checkpoint>_<split> next to the
    checkpoint"""


@dataclasses.dataclass(frozen=True)
class InferConfig:
    """Classification of images."""

    images: list[str]
    """image files, and folders of images"""
    ckpt_path: Optional[str] = None
    """checkpoint (.ckpt or .sqz)"""
    model_path: Optional[str] = None
    """exported model (.mindir, .onnx) with its .json next to it"""
    top_k: Count = 5
    """number of classes to name per image"""
    batch_size: Count = 32
    """images per step, if the model accepts any"""
    features: bool = False
    """also write features.npz: `features` (images, channels) float32, the mean of the last feature map, which describes
    an image for retrieval or another classifier, and `files` (images,); needs a checkpoint"""
    cam: bool = False
    """show in the gallery where in each image its class was seen (class activation map); needs a checkpoint"""
    output_path: str = "predictions"
    """folder for predictions.json and the gallery"""


@dataclasses.dataclass(frozen=True)
class ExportConfig(CheckpointConfig):
    """Export."""

    file_format: Literal["MINDIR", "AIR", "ONNX"] = "MINDIR"
    """format of the exported model; AIR needs an Ascend"""
    file_name: Optional[str] = None
    """file to write; null: the checkpoint's name with the format's suffix"""
    batch_size: Count = 1
    """images per call"""
    dynamic_batch: bool = False
    """accept any number of images per call (MINDIR, ONNX)"""
    image_size: Optional[Side] = None
    """side of the input in pixels; null: as trained"""
    softmax: bool = False
    """return probabilities instead of logits"""
    uint8_input: bool = False
    """take pixels (N, H, W, 3) from 0 to 255 and normalise them inside the graph"""
