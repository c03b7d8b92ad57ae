"""Evaluate a checkpoint and write the results."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

from mindspore import Model, nn, ops

from src.checkpoint import load_network
from src.cli.errors import UserError
from src.config import DeviceConfig
from src.dataset import evaluation_pipeline, open_source, splits
from src.dataset.options import data_config
from src.dataset.preprocessing import Preprocessing
from src.dataset.source import Source
from src.devices.device import select_device
from src.devices.processes import ALONE, ProcessGroup
from src.files.atomic import write_json, write_text
from src.files.run_folder import output_folder
from src.inference.config import EvalConfig
from src.inference.metrics import Classification, Evaluation
from src.loss import CrossEntropy
from src.network.input_layer import with_input_layer

RESULT, CONFUSION_TABLE = "result.json", "confusion_matrix.csv"
CONFUSION_PICTURE, MISTAKES_PICTURE = "confusion_matrix.png", "worst_mistakes.png"
MISTAKES = 32


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
) -> Evaluation:
    """Evaluate a network on a data set, each image once in one process of the group."""
    dataset = evaluation_pipeline(
        source, preprocessing, batch_size, num_workers, group.size, group.rank, max_broken_images, pad=True
    )
    model = Model(with_input_layer(net, preprocessing), CrossEntropy(), metrics={"evaluation": Classification(group)})
    return model.eval(dataset, dataset_sink_mode=False)["evaluation"]


def evaluate_checkpoint(config: EvalConfig, device: DeviceConfig) -> dict:
    """Evaluate a checkpoint as configured, write the folder of results, and return the content of result.json.

    Of several processes of a group each evaluates its share, and the leading one writes. Raises UserError for a
    checkpoint, data or a folder that cannot be used.
    """
    target = select_device(device)
    group = ProcessGroup.join()
    net, card = load_network(config.ckpt_path)
    data = data_config(config, dataset=config.dataset or card.dataset, val_split=card.val_split_of(config.dataset))
    present = splits(data)
    split = config.split or next((name for name in ("test", "val") if name in present), "val")
    source = open_source(data, split)
    if source.classes != card.classes[: len(source.classes)]:
        raise UserError(
            f"{config.ckpt_path}: was trained on the {len(card.classes)} classes {_some(card.classes)}; "
            f"{data.dataset} has the {len(source.classes)} classes {_some(source.classes)}"
        )
    if config.resizer == "device" and not card.preprocessing.native_size:
        raise UserError(
            f"resizer: device takes images that all have one size; {config.ckpt_path} was trained on images of any"
        )
    preprocessing = dataclasses.replace(card.preprocessing, resizer=config.resizer or card.preprocessing.resizer)
    net = Flipped(net) if config.tta == "flip" else net
    checkpoint = Path(config.ckpt_path)
    folder = Path(config.output_path or checkpoint.with_name(f"eval_{checkpoint.stem}_{split}"))
    names = (RESULT, CONFUSION_TABLE, CONFUSION_PICTURE, MISTAKES_PICTURE)
    with output_folder(folder, *names) if group.is_main_process else contextlib.nullcontext():
        evaluation = evaluate(
            net,
            source,
            preprocessing,
            config.batch_size,
            config.num_workers,
            group=group,
            max_broken_images=config.max_broken_images,
        )
    result = {
        "checkpoint": str(checkpoint),
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
    if not group.is_main_process:
        return {**result, "output_path": str(folder)}
    write_json(folder / RESULT, result)
    _write_confusion(folder, evaluation, card.classes)
    _write_mistakes(folder, evaluation, source, card.classes)
    return {**result, "output_path": str(folder)}


def _write_confusion(folder: Path, evaluation: Evaluation, classes: list[str]) -> None:
    from src import visualize

    confusion = evaluation.confusion()
    lines = [",".join(["true \\ predicted", *map(_csv_cell, classes)])]
    lines += [",".join([_csv_cell(name), *map(str, row)]) for name, row in zip(classes, confusion)]
    write_text(folder / CONFUSION_TABLE, "\n".join(lines) + "\n")
    visualize.confusion_matrix(folder / CONFUSION_PICTURE, confusion, classes)


def _write_mistakes(folder: Path, evaluation: Evaluation, source: Source, classes: list[str]) -> None:
    from src import visualize

    worst = evaluation.worst_mistakes(MISTAKES)
    titles = [
        f"{classes[evaluation.predictions[i]]} {evaluation.confidences[i]:.0%}\nis {classes[evaluation.labels[i]]}"
        for i in worst
    ]
    if len(worst):
        visualize.image_grid(folder / MISTAKES_PICTURE, [source.image(evaluation.indices[i]) for i in worst], titles)
    else:
        (folder / MISTAKES_PICTURE).unlink(missing_ok=True)


def _csv_cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\n') else text


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
