"""Classify image files with a checkpoint or an exported model."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple

import numpy as np
from PIL import Image

from src.checkpoint import load_network
from src.cli.errors import UserError
from src.cli.terminal import images_bar, warn
from src.config import DeviceConfig
from src.dataset.image_files import image_files, say_passed_over
from src.dataset.source import load_image, printable
from src.devices.device import select_device
from src.files.atomic import write_arrays, write_json
from src.files.run_folder import output_folder
from src.inference.config import CHECKPOINTS, InferConfig
from src.inference.exported_model import ExportedModel, open_model
from src.inference.metrics import softmax
from src.network.summary import check_memory

PREDICTIONS, GALLERY, FEATURES = "predictions.json", "predictions.png", "features.npz"
GALLERY_IMAGES, GALLERY_PIXELS = 32, 256


class Outputs(NamedTuple):
    """Outputs of a model for N images: probabilities (N, classes); from a checkpoint also features and maps.

    features, maps: MindSpore tensors, see Activations; they are large, and stay on the device until they are asked for.
    """

    probabilities: np.ndarray
    features: Any = None
    maps: Any = None


class Classifier:
    """A model that returns class probabilities for images, from a checkpoint or an exported model.

    prepare: makes of an image (H, W, 3) uint8 what the model takes.
    overlay: makes of what the model took and the map of a class a picture (image_size, image_size, 3) uint8, or None.
    """

    def __init__(self, classes: list[str], prepare: Callable, outputs: Callable, overlay: Callable | None = None):
        self.classes, self.prepare, self._outputs, self.overlay = classes, prepare, outputs, overlay

    def __call__(self, inputs: list[np.ndarray]) -> Outputs:
        """Return the outputs for preprocessed images."""
        return self._outputs(np.stack(inputs))

    def predict(self, image: str | Path | np.ndarray, top_k: int = 5) -> list[dict[str, Any]]:
        """Return index, name and probability of the likeliest classes of an image: a file, or (H, W, 3) uint8."""
        pixels = image if isinstance(image, np.ndarray) else load_image(Path(image))
        return _top_k(self([self.prepare(pixels)]).probabilities[0], self.classes, top_k)

    @classmethod
    def from_checkpoint(cls, path: str, batch_size: int = 1) -> Classifier:
        """Load the classifier of a checkpoint. Raises UserError for an unusable checkpoint or too large a batch."""
        from mindspore import Tensor

        from src.network.cam import Activations, heat

        net, card = load_network(path)
        check_memory(card.model, card.preprocessing.image_size, batch_size)
        activations = Activations(net)

        def outputs(inputs: np.ndarray) -> Outputs:
            logits, features, maps = activations(Tensor(inputs))
            return Outputs(softmax(logits.asnumpy()), features, maps)

        def overlay(inputs: np.ndarray, activation_map: np.ndarray) -> np.ndarray:
            from src import visualize

            image = card.preprocessing.undo(inputs[None])[0]
            return visualize.overlay(image, heat(net, activation_map, len(image)))

        return cls(card.classes, card.preprocessing, outputs, overlay)

    @classmethod
    def from_exported(cls, model: ExportedModel) -> Classifier:
        """Load the classifier of an exported model."""
        prepare = model.preprocessing.fit_image if model.takes_pixels else model.preprocessing
        return cls(model.spec["classes"], prepare, lambda inputs: Outputs(softmax(model.logits(inputs))))


def load(path: str | Path, device: DeviceConfig | None = None) -> Classifier:
    """Load a checkpoint (.ckpt, .sqz) or an exported model (.onnx, .mindir): load("best.ckpt").predict("cat.jpg").

    A checkpoint runs on the device that MindSpore is set to. Raises UserError for an unusable file.
    """
    if Path(path).suffix in CHECKPOINTS:
        return Classifier.from_checkpoint(str(path))
    return Classifier.from_exported(open_model(path, None, device or DeviceConfig()))


def infer(config: InferConfig, device: DeviceConfig) -> tuple[list[dict[str, Any]], int]:
    """Classify image files as configured; write predictions.json, the gallery and, on request, features.npz.

    Return the predictions, and how many files were skipped.

    What is no image is named on stderr and left out. Raises UserError when nothing is left, and for a model or a folder
    that cannot be used.
    """
    path = config.path
    for key in ("features", "cam"):
        if config.model_path and getattr(config, key):
            raise UserError(f"{key}: an exported model gives its classes alone; give the checkpoint with --ckpt_path")
    files, missing = _image_paths(config.images)
    for error in missing:
        _skip(error, len(files) + len(missing))
    if not files:
        raise UserError(f"none of the {len(missing)} paths leads to an image")
    if config.model_path:
        classifier = Classifier.from_exported(open_model(path, config.runtime, device))
    else:
        select_device(device)
        classifier = Classifier.from_checkpoint(path, min(config.batch_size, len(files)))
    folder = Path(config.output_path)
    results, features, shown, overlays = [], [], [], []
    entries = (PREDICTIONS, GALLERY, *([FEATURES] if config.features else []))
    with output_folder(folder, *entries), images_bar(len(files), "classifying") as bar:
        for batch in _batches(files, config.batch_size, classifier.prepare, len(files) + len(missing)):
            outputs = classifier([read.inputs for read in batch])
            features += [outputs.features.asnumpy()] if config.features else []
            maps = outputs.maps.asnumpy() if config.cam and len(shown) < GALLERY_IMAGES else None
            bar.update(len(batch))
            for i, read in enumerate(batch):
                top_k = _top_k(outputs.probabilities[i], classifier.classes, config.top_k)
                results.append({"file": str(read.file), "top_k": top_k})
                if len(shown) < GALLERY_IMAGES:
                    shown.append(read.picture)
                    if maps is not None:
                        overlays.append(classifier.overlay(read.inputs, maps[i, top_k[0]["index"]]))
        if not results:
            raise UserError(f"none of the {len(files)} files is a readable image")
    # A name that is not UTF-8 is written as JSON's escape for it, from which Python's os.fsencode gets it back.
    write_json(folder / PREDICTIONS, results)
    if config.features:
        arrays = {"files": np.array([result["file"] for result in results]), "features": np.concatenate(features)}
        write_arrays(folder / FEATURES, arrays)
    _write_gallery(folder / GALLERY, shown, overlays, results, Path(path).name, classifier.classes)
    return results, len(files) + len(missing) - len(results)


def _write_gallery(
    path: Path,
    shown: list[np.ndarray],
    overlays: list[np.ndarray],
    results: list[dict[str, Any]],
    model: str,
    classes: list[str],
) -> None:
    from src import visualize  # Here, because matplotlib is slow to import.

    title = f"Predictions of {model}: {visualize.some_of(len(shown), len(results), 'images')}"
    best, legible = [result["top_k"][0] for result in results[: len(shown)]], visualize.legible(tuple(classes))
    predicted, confidences = [legible[entry["index"]] for entry in best], [entry["probability"] for entry in best]
    names = tuple(printable(Path(result["file"]).name) for result in results[: len(shown)])
    names = visualize.legible(names, "file names")
    if overlays:
        figure = visualize.activation_grid(shown, overlays, predicted, confidences, title, names)
    else:
        figure = visualize.prediction_grid(shown, predicted, confidences, None, title, names)
    visualize.save(figure, path)


def _top_k(probabilities: np.ndarray, classes: list[str], k: int) -> list[dict[str, Any]]:
    best = np.argsort(-probabilities, kind="stable")[:k]
    return [{"index": int(i), "name": classes[i], "probability": float(probabilities[i])} for i in best]


def _image_paths(paths: list[str]) -> tuple[list[Path], list[UserError]]:
    """Return the given files and those in given folders, and the errors for the other paths."""
    files, missing = [], []
    for path in map(Path, paths):
        passed_over: Counter[str] = Counter()
        found = image_files(path, passed_over) if os.path.isdir(path) else [path] if os.path.isfile(path) else []
        say_passed_over(path, passed_over)
        files += found
        if os.path.isdir(path) and not found:
            missing.append(UserError(f"{printable(path)}: no images in this folder"))
        elif not found:
            missing.append(UserError(f"{printable(path)}: there is no such file or folder"))
    return files, missing


class _Read(NamedTuple):
    """A loaded image: its file, the model's input, and (H, W, 3) uint8 for display."""

    file: Path
    inputs: np.ndarray
    picture: np.ndarray


def _batches(files: list[Path], size: int, prepare: Callable, total: int) -> Iterator[list[_Read]]:
    """Yield batches of `size` images, with at most one image in memory at its full resolution."""
    batch: list[_Read] = []
    for file in files:
        try:
            image = load_image(file)
        except UserError as error:
            _skip(error, total)
            continue
        batch.append(_Read(file, prepare(image), _thumbnail(image)))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _skip(error: UserError, total: int) -> None:
    """Warn on stderr of skipped images. Raises the error itself if no image is left."""
    if total == 1:
        raise error
    warn(f"skipped: {error}")


def _thumbnail(image: np.ndarray) -> np.ndarray:
    if max(image.shape) <= GALLERY_PIXELS:
        return image
    small = Image.fromarray(image)
    small.thumbnail((GALLERY_PIXELS, GALLERY_PIXELS))
    return np.asarray(small)
