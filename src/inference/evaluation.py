"""Evaluate a checkpoint or an exported model, and write the results."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mindspore import Model, nn, ops

from src.checkpoint import load_network
from src.cli.errors import UserError
from src.cli.terminal import images_bar
from src.config import DeviceConfig
from src.dataset import evaluation_pipeline, open_evaluated, splits
from src.dataset.options import data_config
from src.dataset.preprocessing import Preprocessing
from src.dataset.source import Source, printable
from src.dataset.splits import has_class_folders_alone
from src.devices.device import select_device
from src.devices.processes import ALONE, ProcessGroup
from src.files.atomic import write_json, write_text
from src.files.run_folder import output_folder
from src.inference.config import EvalConfig
from src.inference.exported_model import ExportedModel, open_model
from src.inference.metrics import Classification, Evaluation
from src.loss import CrossEntropy
from src.model_card import ModelCard
from src.network.input_layer import with_input_layer
from src.network.summary import check_memory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULT, CONFUSION_TABLE = "result.json", "confusion_matrix.csv"
CONFUSION_PICTURE, MISTAKES_PICTURE = "confusion_matrix.png", "worst_mistakes.png"
MISTAKES = 32
PICTURE_IMAGES = 32  # As in the MindSpore tutorial.


class Flipped(nn.Cell):
    """Test-time augmentation: the mean output (N, classes) for images (N, C, H, W) and their mirror images."""

    def __init__(self, net: nn.Cell):
        super().__init__(auto_prefix=False)
        self.net = net

    def construct(self, images):
        return (self.net(images) + self.net(ops.flip(images, (3,)))) / 2


def evaluate(
    net: nn.Cell,
    source: Source,
    preprocessing: Preprocessing,
    batch_size: int,
    num_workers: int,
    group: ProcessGroup = ALONE,
    max_broken_images: int = 0,
    metric: Classification | None = None,
) -> Evaluation:
    """Evaluate a network on a data set, each image once in one process of the group."""
    dataset = evaluation_pipeline(
        source, preprocessing, batch_size, num_workers, group.size, group.rank, max_broken_images, pad=True
    )
    metric = metric or Classification(group)
    model = Model(with_input_layer(net, preprocessing), CrossEntropy(), metrics={"evaluation": metric})
    return model.eval(dataset, dataset_sink_mode=False)["evaluation"]


def evaluate_exported(
    model: ExportedModel,
    flip: bool,
    source: Source,
    batch_size: int,
    num_workers: int,
    group: ProcessGroup = ALONE,
    max_broken_images: int = 0,
    metric: Classification | None = None,
) -> Evaluation:
    """Evaluate an exported model on a data set; see evaluate.

    flip: average the outputs for an image and its mirror image.
    """
    preprocessing, metric = model.preprocessing, metric or Classification(group)
    batches = evaluation_pipeline(
        source,
        preprocessing,
        batch_size,
        num_workers,
        group.size,
        group.rank,
        max_broken_images,
        pad=True,
        pixels=model.takes_pixels,
    )
    for inputs, labels in batches.create_tuple_iterator(num_epochs=1, output_numpy=True):
        if preprocessing.on_device and not model.takes_pixels:
            inputs = np.stack([preprocessing.from_pixels(image) for image in inputs])
        logits = model.logits(inputs)
        if flip:
            mirrored = np.ascontiguousarray(np.flip(inputs, 2 if model.takes_pixels else 3))
            logits = (logits + model.logits(mirrored)) / 2
        metric.update(logits, labels)
    return metric.eval()


def evaluate_model(config: EvalConfig, device: DeviceConfig) -> dict:
    """Evaluate a model as configured, write the folder of results, and return the content of result.json.

    Each process of a group evaluates its part, and the main process writes. Raises UserError for a
    model, data or a folder that cannot be used.
    """
    path = Path(config.path)
    if config.model_path:
        if config.resizer:
            raise UserError("resizer: an exported model always uses its own; give the checkpoint with --ckpt_path")
        model = open_model(path, config.runtime, device)
        target, card, group = model.device, model.card, ProcessGroup.join()
        kind = {"model": str(path), "runtime": model.runtime}
    else:
        target, group = select_device(device), ProcessGroup.join()
        net, card = load_network(path)
        kind = {"checkpoint": str(path)}
    data = data_config(config, dataset=config.dataset or card.dataset, val_split=card.val_split_of(config.dataset))
    present, alone = splits(data), has_class_folders_alone(data)
    split = config.split or next((name for name in ("test", "val") if name in present), "all" if alone else "val")
    if group.is_main_process:
        card.warn_of_one_class()
    if alone and split == "val" and not config.split and group.is_main_process:
        print(f"{data.data_path}: only the images that val_split {data.val_split} set aside; --split all takes all")
    source = with_classes_of(card, open_evaluated(data, split), f"{path}: was trained on", data.dataset)
    if target == "CPU":
        check_memory(card.model, card.preprocessing.image_size, min(config.batch_size, len(source)))
    if config.resizer == "device" and not card.preprocessing.native_size:
        raise UserError(f"resizer: device takes images that all have one size; {path} was trained on images of any")
    preprocessing = dataclasses.replace(card.preprocessing, resizer=config.resizer or card.preprocessing.resizer)
    folder = Path(config.output_path or path.with_name(f"eval_{path.name if config.model_path else path.stem}_{split}"))
    names = (RESULT, CONFUSION_TABLE, CONFUSION_PICTURE, MISTAKES_PICTURE)
    if group.is_main_process:
        print(f"evaluating {path} on {len(source):,} images of {data.dataset} {split}", flush=True)
    writing = output_folder(folder, *names) if group.is_main_process else contextlib.nullcontext()
    with writing, images_bar(len(source), "evaluating") as bar:
        flip = config.tta == "flip"
        metric = Classification(group, bar.update)
        options = (config.batch_size, config.num_workers, group, config.max_broken_images, metric)
        if config.model_path:
            evaluation = evaluate_exported(model, flip, source, *options)
        else:
            evaluation = evaluate(Flipped(net) if flip else net, source, preprocessing, *options)
    result = {
        **kind,
        "dataset": data.dataset,
        "split": split,
        "resizer": preprocessing.resizer,
        "tta": config.tta,
        **evaluation.summary(),
        "broken_images": len(source) - len(evaluation.labels),
        "accuracy_per_class": dict(zip(card.classes, evaluation.accuracy_per_class())),
        "device": target,
        "devices": group.size,
    }
    if group.is_main_process:
        write_json(folder / RESULT, result)
        _write_confusion(folder, evaluation, card.classes, f"{path.name} on {data.dataset} {split}")
        _write_mistakes(folder, evaluation, source, card.classes)
    return {**result, "output_path": str(folder)}


def with_classes_of(card: ModelCard, source: Source, who: str, dataset: str) -> Source:
    """Return a data set, all or some of a network's classes, with the labels that the network has for their names.

    who: the beginning of the message of the UserError for other classes.
    """
    if source.classes == card.classes[: len(source.classes)]:
        return source
    index = {name: i for i, name in enumerate(card.classes)}
    unknown = [name for name in source.classes if name not in index]
    if unknown:
        raise UserError(
            f"{who} the {len(card.classes)} classes {_some(card.classes)}; {dataset} has the {len(source.classes)} "
            f"classes {_some(source.classes)}, and {printable(unknown[0])} is none of them"
        )
    source.labels = np.array([index[name] for name in source.classes], np.int32)[source.labels]
    source.classes = card.classes
    return source


def _write_confusion(folder: Path, evaluation: Evaluation, classes: list[str], title: str) -> None:
    from src import visualize

    confusion = evaluation.confusion()
    table = io.StringIO()
    rows = ([name, *row] for name, row in zip(classes, confusion))
    csv.writer(table, lineterminator="\n").writerows([["true \\ predicted", *classes], *rows])
    write_text(folder / CONFUSION_TABLE, table.getvalue())
    figure = visualize.confusion_matrix(confusion, visualize.legible(tuple(classes)), f"Confusion matrix, {title}")
    visualize.save(figure, folder / CONFUSION_PICTURE)


def _write_mistakes(folder: Path, evaluation: Evaluation, source: Source, classes: list[str]) -> None:
    from src import visualize

    worst, classes = evaluation.worst_mistakes(MISTAKES), visualize.legible(tuple(classes))
    if not len(worst):
        (folder / MISTAKES_PICTURE).unlink(missing_ok=True)
        return
    titles = [
        f"{visualize.class_title(classes[evaluation.predictions[i]], evaluation.confidences[i])}\n"
        f"true: {visualize.class_title(classes[evaluation.labels[i]], np.exp(-evaluation.losses[i]))}"
        for i in worst
    ]
    wrong = int((evaluation.predictions != evaluation.labels).sum())
    title = f"Worst mistakes, by the probability of the true class: {visualize.some_of(len(worst), wrong, 'wrong')}"
    title += f" among {len(evaluation.labels):,} images"
    images = [source.image(evaluation.indices[i]) for i in worst]
    visualize.save(visualize.image_grid(images, titles, title), folder / MISTAKES_PICTURE)


def evaluation_grid(evaluation: Evaluation, source: Source, classes: list[str], what: str) -> Figure:
    """Draw the first evaluated images with their predictions. what: they are, such as "test images"."""
    from src import visualize

    count, classes = min(PICTURE_IMAGES, len(evaluation.indices)), visualize.legible(tuple(classes))
    return visualize.prediction_grid(
        [source.image(int(i)) for i in evaluation.indices[:count]],
        [classes[p] for p in evaluation.predictions[:count]],
        evaluation.confidences[:count],
        [classes[label] for label in evaluation.labels[:count]],
        f"{visualize.some_of(count, len(evaluation.labels), what)}; {evaluation.accuracy:.2%} of all are right",
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
