"""Classification of image files with a checkpoint or an exported model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np

from src.checkpoint import load_network
from src.config import DeviceConfig, InferConfig
from src.dataset.image_folder import image_files
from src.dataset.source import load_image
from src.dataset.transforms import Preprocessing
from src.device import select_device
from src.errors import UserError
from src.exported import ExportedModel, read_spec
from src.output import output_folder, write_json

PREDICTIONS, GALLERY = "predictions.json", "predictions.png"
GALLERY_IMAGES = 32


class Classifier:
    """A model that gives probabilities (N, classes) for images (H, W, 3) uint8, whatever file it came from."""

    def __init__(self, classes: list[str], prepare: Callable, probabilities: Callable):
        self.classes, self._prepare, self._probabilities = classes, prepare, probabilities

    def __call__(self, images: list[np.ndarray]) -> np.ndarray:
        """Return the probability of each class for each image."""
        return self._probabilities(np.stack([self._prepare(image) for image in images]))

    @classmethod
    def from_checkpoint(cls, path: str) -> Classifier:
        """Return the classifier of a checkpoint. Raises UserError when it cannot be used."""
        from mindspore import Tensor

        net, card = load_network(path)
        return cls(card.classes, card.preprocessing, lambda inputs: softmax(net(Tensor(inputs)).asnumpy()))

    @classmethod
    def from_exported(cls, path: str) -> Classifier:
        """Return the classifier of a MINDIR or ONNX file. Raises UserError when it cannot be used."""
        spec = read_spec(Path(path))
        model = ExportedModel(Path(path), spec)
        preprocessing = Preprocessing.from_json(spec["preprocessing"])
        prepare = preprocessing.fit_image if spec["input"]["dtype"] == "uint8" else preprocessing
        if spec["output"]["what"] == "probabilities":
            return cls(spec["classes"], prepare, model)
        return cls(spec["classes"], prepare, lambda inputs: softmax(model(inputs)))


def infer(config: InferConfig, device: DeviceConfig) -> tuple[list[dict[str, Any]], int]:
    """Classify image files as configured, write predictions.json and the gallery, and return them and the skipped.

    Raises UserError for a model, a path or a folder that cannot be used, and when no file is an image.
    """
    if bool(config.ckpt_path) == bool(config.model_path):
        raise UserError("give either --ckpt_path (a checkpoint) or --model_path (a .mindir or .onnx file)")
    files = list(_image_paths(config.images))
    if config.ckpt_path or Path(config.model_path).suffix != ".onnx":
        select_device(device)
    classifier = (
        Classifier.from_checkpoint(config.ckpt_path)
        if config.ckpt_path
        else Classifier.from_exported(config.model_path)
    )
    folder = Path(config.output_path)
    results, shown = [], []
    with output_folder(folder):
        for batch, images in _batches(files, config.batch_size):
            for file, image, probabilities in zip(batch, images, classifier(images)):
                results.append({"file": str(file), "top_k": _top_k(probabilities, classifier.classes, config.top_k)})
                shown += [image] if len(shown) < GALLERY_IMAGES else []
        if not results:
            raise UserError(f"none of the {len(files)} files is a readable image")
    write_json(folder / PREDICTIONS, results)

    from src import visualize  # Here, because matplotlib is slow to import.

    visualize.prediction_grid(folder / GALLERY, shown, [result["top_k"][0]["name"] for result in results])
    return results, len(files) - len(results)


def _top_k(probabilities: np.ndarray, classes: list[str], k: int) -> list[dict[str, Any]]:
    best = np.argsort(-probabilities, kind="stable")[:k]
    return [{"index": int(i), "name": classes[i], "probability": float(probabilities[i])} for i in best]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities for logits (N, classes)."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _image_paths(paths: list[str]) -> Iterator[Path]:
    for path in map(Path, paths):
        if path.is_dir():
            found = image_files(path)
            if not found:
                raise UserError(f"{path}: no images in this folder")
            yield from found
        elif path.is_file():
            yield path
        else:
            raise UserError(f"{path}: there is no such file or folder")


def _batches(files: list[Path], size: int) -> Iterator[tuple[list[Path], list[np.ndarray]]]:
    """Yield files and their images, `size` at a time; a file that is no image is named on stderr and left out."""
    good: list[tuple[Path, np.ndarray]] = []
    for file in files:
        try:
            good.append((file, load_image(file)))
        except UserError as error:
            print(f"warning: skipped: {error}", file=sys.stderr)
        if len(good) == size:
            yield tuple(map(list, zip(*good)))
            good = []
    if good:
        yield tuple(map(list, zip(*good)))
