"""Configuration of eval.py, infer.py and export.py."""

from __future__ import annotations

import dataclasses
from typing import Literal, Optional

from src.cli.errors import UserError
from src.cli.types import Count, Side
from src.dataset.options import DataLoadingConfig, Dataset
from src.dataset.preprocessing import RESIZERS
from src.inference.exported_model import RUNTIMES

# Keys of positional arguments: the folder of a run stands for its best weights, others go by their suffix. What reads
# checkpoints refuses other programs' files with advice.
CHECKPOINTS = dict.fromkeys(
    ("/best.ckpt", "/squeezenet.ckpt", ".ckpt", ".sqz", ".pth", ".pt", ".safetensors", ".npz", ".net", ".caffemodel"),
    "ckpt_path",
)
MODELS = {**CHECKPOINTS, **{suffix: "model_path" for runtime in RUNTIMES.values() for suffix in runtime.suffixes}}
MODELS_AND_IMAGES = {**MODELS, "": "images"}


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoint."""

    ckpt_path: str
    """checkpoint (.ckpt or .sqz)"""


@dataclasses.dataclass(frozen=True)
class TrainedModelConfig:
    """Trained model: a checkpoint, or an exported model."""

    ckpt_path: Optional[str] = None
    """checkpoint (.ckpt or .sqz)"""
    model_path: Optional[str] = None
    """exported model (.mindir, .onnx; .ms and _310.mindir of MindSpore Lite's converter) with its .json next to it"""
    runtime: Optional[Literal[tuple(RUNTIMES)]] = None
    """library that runs model_path; null: lite for .ms and _310.mindir, mindspore for other .mindir, onnxruntime for
    .onnx"""

    @property
    def path(self) -> str:
        """The model's file. Raises UserError unless exactly one is given."""
        if bool(self.ckpt_path) == bool(self.model_path):
            raise UserError("give either --ckpt_path (a checkpoint) or --model_path (an exported model)")
        return self.ckpt_path or self.model_path


@dataclasses.dataclass(frozen=True)
class EvalConfig(DataLoadingConfig, TrainedModelConfig):
    """Evaluation: the network, its image size and its normalisation come from the model's file."""

    dataset: Optional[Dataset] = None
    """data set; null: the one that the model was trained on"""
    split: Optional[Literal["train", "val", "test", "all"]] = None
    """split of the data set, or all images of class folders without train/; null: test, or val if there are no test
    images, or all if nothing was set aside"""
    batch_size: Count = 32
    """images per step"""
    resizer: Optional[Literal[RESIZERS]] = None
    """resizing of images: mindspore, a fast operator, pillow, the exact one for ImageNet networks, or device, in the
    graph, if all images have one size; null: the checkpoint's own (an exported model always uses its own)"""
    tta: Literal["none", "flip"] = "none"
    """test-time augmentation; flip: average the outputs for an image and its mirror image, at twice the work"""
    output_path: Optional[str] = None
    """folder for result.json, the confusion matrix and the gallery; null: eval_<model>_<split> next to the model"""


@dataclasses.dataclass(frozen=True)
class ImagesConfig:
    """Images."""

    images: list[str]
    """image files, and folders of images"""


@dataclasses.dataclass(frozen=True)
class InferConfig(TrainedModelConfig, ImagesConfig):
    """Classification of images."""

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
    """format of the exported model: MINDIR, which runs on every device, ONNX, or AIR, which is deprecated in MindSpore
    2.7 to 2.10 and is exported on an Ascend only"""
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
