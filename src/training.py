"""A training run, from its configuration to its folder."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Callable, Iterator

import mindspore as ms
import numpy as np
from mindspore import Model, Tensor, nn
from mindspore.dataset import Dataset
from mindspore.train import CheckpointConfig, LossMonitor, ModelCheckpoint, TimeMonitor

from src.callbacks import DeadStartWarning, Evaluator, History, Training
from src.checkpoint import CARD_KEY, ModelCard, load_network, load_pretrained, save_checkpoint
from src.config import OptimizerConfig, TrainConfig, to_yaml
from src.dataset import evaluation_pipeline, open_source, preprocessing_of, splits, training_pipeline
from src.dataset.source import Source
from src.device import peak_memory_mb, select_device
from src.errors import UserError
from src.evaluation import evaluate
from src.loss import CrossEntropy
from src.lr_generator import get_lr
from src.metrics import Classification, Evaluation
from src.output import check_run_folder, make_run_folder, write_json, write_text
from src.quiet import quiet
from src.squeezenet import SqueezeNet
from src.summary import check_image_size, summarize, totals

CONFIG, LOG, METRICS, RESULT = "config.yaml", "train.log", "metrics.csv", "result.json"
CHECKPOINTS, BEST, LAST, SCALARS = "checkpoints", "best.ckpt", "squeezenet.ckpt", "scalars"
BATCH_PICTURE, RATE_PICTURE = "training_batch.png", "learning_rate.png"
CURVES_PICTURE, PREDICTIONS_PICTURE = "curves.png", "predictions.png"
# Everything that a run writes, which is what --overwrite removes.
RUN_ENTRIES = (
    *(CONFIG, LOG, METRICS, RESULT, CHECKPOINTS, BEST, LAST, SCALARS),
    *(BATCH_PICTURE, RATE_PICTURE, CURVES_PICTURE, PREDICTIONS_PICTURE),
)
# The prefix of the checkpoints and the images in a picture, as in the MindSpore tutorial.
CHECKPOINT_PREFIX, PICTURE_IMAGES = "SqueezeNet", 32


@dataclasses.dataclass
class Plan:
    """A run that has been checked and can start; nothing of it is written yet."""

    config: TrainConfig
    target: str
    net: SqueezeNet
    card: ModelCard
    training: Source
    validation: Source | None
    test: Source | None
    dataset: Dataset
    rates: np.ndarray
    parameters: int
    multiply_adds: int

    @property
    def sink(self) -> bool:
        """Whether the device is fed an epoch at a time."""
        run = self.config.run
        return self.target != "CPU" and run.eval_steps is None if run.dataset_sink is None else run.dataset_sink


def train(config: TrainConfig) -> dict:
    """Train as configured, write the run's folder, and return its result (result.json).

    Raises UserError, before anything is written, for data, checkpoint, device or folder that cannot be used.
    """
    start = time.perf_counter()
    folder = Path(config.run.output_path)
    check_run_folder(folder, RUN_ENTRIES, config.run.overwrite)
    plan = prepare(config)
    make_run_folder(folder, RUN_ENTRIES, config.run.overwrite)
    write_text(folder / CONFIG, to_yaml(config))
    validation = f"{len(plan.validation):,}" if plan.validation else "no"
    print(
        f"SqueezeNet {config.model.version}: {plan.parameters:,} parameters, {plan.multiply_adds:,} multiply-adds; "
        f"{len(plan.training):,} images for training, {validation} for validation; run folder: {folder}"
    )
    progress, evaluator = fit(plan, folder)
    result = {
        "parameters": plan.parameters,
        "multiply_adds": plan.multiply_adds,
        "training_images": len(plan.training),
        "steps": len(plan.rates),
        **conclude(plan, folder, evaluator),
        "images_per_second": progress.images_per_second,
        "seconds": time.perf_counter() - start,
        "peak_memory_mb": peak_memory_mb(plan.target),
        "device": plan.target,
        "processor_cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), **{p: metadata.version(p) for p in ("mindspore", "numpy")}},
    }
    write_json(folder / RESULT, result)
    return result


def prepare(config: TrainConfig) -> Plan:
    """Open and check all that a run needs. Raises UserError for what cannot be used."""
    target = select_device(config.device)
    check_precision(config.optimizer, target)
    dashboard_writer(config.run.scalars)
    ms.set_seed(config.run.seed)
    present = splits(config.data)
    training = open_source(config.data, "train")
    validation, test = (open_source(config.data, split) if split in present else None for split in ("val", "test"))
    preprocessing = preprocessing_of(config.data, training)
    num_classes = config.model.num_classes or len(training.classes)
    if num_classes < len(training.classes):
        raise UserError(f"num_classes: {num_classes} are too few for the data set, which has {len(training.classes)}")
    names = training.classes + [f"class {i}" for i in range(len(training.classes), num_classes)]
    arguments = {**dataclasses.asdict(config.model), "num_classes": num_classes}
    card = ModelCard(arguments, names, preprocessing, config.data.dataset, config.data.val_split)
    net = card.build()
    check_image_size(net, config.data.image_size)
    if config.run.pretrained:
        load_pretrained(net, config.run.pretrained)
    dataset = training_pipeline(training, config.data, preprocessing, config.run.seed)
    schedule = dataclasses.asdict(config.schedule)
    rates = get_lr(total_epochs=schedule.pop("epochs"), steps_per_epoch=dataset.get_dataset_size(), **schedule)
    counts = totals(summarize(net, config.data.image_size))
    return Plan(config, target, net, card, training, validation, test, dataset, rates, *counts)


def fit(plan: Plan, folder: Path) -> tuple[Training, Evaluator | None]:
    """Run the training steps, and leave log, scalars, checkpoints and pictures in the folder."""
    from src import visualize  # Here, because matplotlib is slow to import, and mistakes should show first.

    config, card = plan.config, plan.card
    steps_per_epoch = plan.dataset.get_dataset_size()
    visualize.learning_rate(folder / RATE_PICTURE, plan.rates, steps_per_epoch)
    picture_batch(plan, folder)
    loss = CrossEntropy(config.optimizer.label_smoothing)
    model = build_model(plan.net, loss, config.optimizer, plan.rates)
    (folder / CHECKPOINTS).mkdir()  # MindSpore would make it unreadable for others.
    checkpoint = CheckpointConfig(
        save_checkpoint_steps=config.run.save_checkpoint_steps or steps_per_epoch,
        keep_checkpoint_max=config.run.keep_checkpoint_max,
        append_info=["epoch_num", "step_num", {CARD_KEY: card.to_tensor()}],
        crc_check=True,
    )
    with contextlib.ExitStack() as opened:
        log = opened.enter_context(open(folder / LOG, "w", encoding="utf-8"))
        metrics = opened.enter_context(open(folder / METRICS, "w", newline="", encoding="utf-8"))
        history = History(metrics, opened.enter_context(dashboard(config.run.scalars, folder / SCALARS)))
        evaluator = None
        if plan.validation:

            def on_result(step: int, epoch: int, evaluation: Evaluation, is_best: bool) -> None:
                history.add(step, epoch, val_loss=evaluation.loss, val_accuracy=evaluation.accuracy)
                if is_best:
                    save_checkpoint(plan.net, folder / BEST, card)
                    visualize.learning_curves(folder / CURVES_PICTURE, history.rows)
                figures = f"loss {evaluation.loss:.4f}  accuracy {evaluation.accuracy:.2%}"
                best = "  (best so far)" if is_best else ""
                progress.say(f"validation at step {step}, epoch {epoch}: {figures}{best}")

            data = config.data
            images = evaluation_pipeline(plan.validation, card.preprocessing, data.batch_size, data.num_workers)
            evaluator = Evaluator(model, images, config.run.eval_steps, on_result, plan.sink)
        progress = Training(
            plan.rates, loss, history, config.run.log_steps, config.data.batch_size, log, sys.stdout, evaluator
        )
        callbacks = [
            progress,
            DeadStartWarning(len(card.classes), config.model.final_relu, progress.say),
            TimeMonitor(steps_per_epoch),
            LossMonitor(config.run.log_steps),
            ModelCheckpoint(CHECKPOINT_PREFIX, str(folder / CHECKPOINTS), checkpoint),
            *([evaluator] if evaluator else []),
        ]
        epochs = len(plan.rates) // steps_per_epoch
        # MindSpore's callbacks print: their lines go to the log, where they do not tear the progress bar.
        with contextlib.redirect_stdout(log):
            model.train(epochs, plan.dataset, callbacks=callbacks, dataset_sink_mode=plan.sink)
    save_checkpoint(plan.net, folder / LAST, card)
    visualize.learning_curves(folder / CURVES_PICTURE, history.rows)
    return progress, evaluator


def conclude(plan: Plan, folder: Path, evaluator: Evaluator | None) -> dict:
    """Evaluate the chosen checkpoint as it lies on disk: the best on validation images, or else the last.

    Test images, where the data set has some, are used here alone. Leaves a picture of predictions.
    """
    from src import visualize

    checkpoint = BEST if evaluator else LAST
    figures: dict = {"checkpoint": checkpoint, "validation": None, "test": None}
    if evaluator:
        step, best = evaluator.best
        figures["validation"] = {"step": step, **best.summary()}
    images = plan.test or plan.validation
    if images:
        data = plan.config.data
        net, card = load_network(folder / checkpoint)
        evaluation = evaluate(net, images, card.preprocessing, data.batch_size, data.num_workers)
        if plan.test:
            figures["test"] = evaluation.summary()
        shown = range(min(PICTURE_IMAGES, len(images)))
        predicted = evaluation.predictions[: len(shown)]
        visualize.prediction_grid(
            folder / PREDICTIONS_PICTURE,
            [images.image(i) for i in shown],
            [card.classes[p] for p in predicted],
            predicted == evaluation.labels[: len(shown)],
        )
    return figures


def build_model(net: nn.Cell, loss: CrossEntropy, config: OptimizerConfig, rates: np.ndarray) -> Model:
    """Return MindSpore's Model of a network, with its optimizer, precision and loss scale."""
    common = {"learning_rate": Tensor(rates), "weight_decay": config.weight_decay}
    if config.loss_scale not in (0, 1):
        common["loss_scale"] = config.loss_scale
    parameters = parameter_groups(net, config)
    if config.optimizer == "adam":
        with quiet():  # nn.Adam makes operators for sparse gradients too, which MindSpore has deprecated.
            optimizer = nn.Adam(parameters, **common)
    elif config.optimizer == "sgd":
        optimizer = nn.SGD(parameters, **common)
    elif config.optimizer == "nesterov":
        # Not nn.Momentum(use_nesterov=True), which on the CPU is momentum without Nesterov's part (2.8 and 2.10).
        optimizer = nn.SGD(parameters, momentum=config.momentum, nesterov=config.momentum > 0, **common)
    else:
        optimizer = nn.Momentum(parameters, momentum=config.momentum, **common)
    scale = {}
    if config.loss_scale == 0:
        scale["loss_scale_manager"] = ms.amp.DynamicLossScaleManager()
    elif config.loss_scale != 1:
        scale["loss_scale_manager"] = ms.amp.FixedLossScaleManager(config.loss_scale, drop_overflow_update=False)
    metrics = {"evaluation": Classification()}
    return Model(net, loss, optimizer, metrics=metrics, amp_level=config.amp_level, **scale)


def parameter_groups(net: nn.Cell, config: OptimizerConfig) -> list:
    """Return what an optimizer trains: all alike, or biases and batch norm parameters without weight decay."""
    if config.decay_biases or not config.weight_decay:
        return net.trainable_params()
    plain = [p for p in net.trainable_params() if p.name.endswith((".bias", ".gamma", ".beta"))]
    decayed = [p for p in net.trainable_params() if not p.name.endswith((".bias", ".gamma", ".beta"))]
    return [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
        {"order_params": net.trainable_params()},
    ]


def check_precision(config: OptimizerConfig, target: str) -> None:
    """Raise UserError for a mixed precision that MindSpore cannot train with on the CPU."""
    if target != "CPU":
        return
    if config.amp_level in ("O2", "O3"):
        raise UserError(f"amp_level: {config.amp_level} needs an Ascend or a GPU; on the CPU O0 is right and fastest")
    if config.loss_scale == 0 or (config.loss_scale != 1 and config.amp_level == "O0"):
        raise UserError(f"loss_scale: {config.loss_scale} is for mixed precision on an Ascend or a GPU; leave it at 1")


def picture_batch(plan: Plan, folder: Path) -> None:
    """Write the first training images as the network will see them, augmented and normalised."""
    from src import visualize

    # A pipeline of its own: reading from the run's would take these images out of its first epoch.
    pipeline = training_pipeline(plan.training, plan.config.data, plan.card.preprocessing, plan.config.run.seed)
    batch = next(pipeline.take(1).create_dict_iterator(num_epochs=1, output_numpy=True))
    images = plan.card.preprocessing.undo(batch["image"][:PICTURE_IMAGES])
    titles = [plan.card.classes[label] for label in batch["label"][:PICTURE_IMAGES]]
    visualize.image_grid(folder / BATCH_PICTURE, images, titles)


@contextlib.contextmanager
def dashboard(kind: str, folder: Path) -> Iterator[Callable[[str, float, int], None] | None]:
    """Give a function that writes a scalar for TensorBoard or VisualDL, or None."""
    writer_class = dashboard_writer(kind)
    if writer_class is None:
        yield None
        return
    writer = writer_class(logdir=str(folder))
    try:
        yield lambda tag, value, step: writer.add_scalar(tag, value, step)
    finally:
        writer.close()


def dashboard_writer(kind: str) -> type | None:
    """Return the class that writes scalars for a dashboard. Raises UserError when it is not installed."""
    try:
        if kind == "tensorboard":
            from tensorboardX import SummaryWriter as Writer
        elif kind == "visualdl":
            from visualdl import LogWriter as Writer
        else:
            return None
    except ImportError:
        raise UserError(f"scalars: {kind} is not installed; pip install {kind}, or choose another or none") from None
    return Writer
