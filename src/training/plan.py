"""Plan a run: open and check everything that the run needs, and load its initial weights."""

from __future__ import annotations

import dataclasses
import inspect
import math
import os
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore.dataset import Dataset

from src.checkpoint import load_pretrained
from src.cli.errors import UserError
from src.config import RUN_CONFIG, TrainConfig, changed_keys, with_keys
from src.dataset import check_shards, open_evaluated, open_source, preprocessing_of, splits, training_pipeline
from src.dataset.source import Source, printable
from src.dataset.splits import val_split_of
from src.devices.device import select_device
from src.devices.processes import ProcessGroup
from src.loss import relative_weights
from src.lr_generator import get_lr, scale_lr
from src.model_card import ModelCard
from src.network.convolutions import replaced_widths
from src.network.summary import check_image_size, check_memory, summarize, totals
from src.squeezenet import SqueezeNet
from src.training.dashboard import dashboard_writer
from src.training.finetuning import freeze
from src.training.model import check_precision
from src.training.resume import Saved, newest_for_all

# The files of a run's folder.
LOG, MINDSPORE_LOG, METRICS, RESULT = "train.log", "mindspore.log", "metrics.csv", "result.json"
CHECKPOINTS, BEST, LAST, SCALARS = "checkpoints", "best.ckpt", "squeezenet.ckpt", "scalars"
BATCH_PICTURE, RATE_PICTURE = "training_batch.png", "learning_rate.png"
CURVES_PICTURE, PREDICTIONS_PICTURE = "curves.png", "predictions.png"
# Everything that a run writes and --overwrite removes.
RUN_ENTRIES = (
    *(RUN_CONFIG, LOG, MINDSPORE_LOG, METRICS, RESULT, CHECKPOINTS, BEST, LAST, SCALARS),
    *(BATCH_PICTURE, RATE_PICTURE, CURVES_PICTURE, PREDICTIONS_PICTURE),
)

# Steps per call in dataset sinking: few enough for timely progress, checkpoints and Ctrl-C, and enough to cost nothing.
SINK_STEPS = 64
# Multiply-adds of training, which are three times those of prediction, on one core a second (benchmarks/README.md).
CPU_MULTIPLY_ADDS = 2e10
# A recipe that takes longer on a CPU was made for an accelerator.
MANY_HOURS = 12


@dataclasses.dataclass
class Plan:
    """A checked run that is ready to start and has not written anything yet.

    class_weights: see ClassificationLoss.
    saved: the checkpoint to resume from, or None.
    earlier: the checkpoints in the run's folder, oldest first, and whether each ends an epoch.
    """

    config: TrainConfig
    group: ProcessGroup
    target: str
    net: SqueezeNet
    card: ModelCard
    training: Source
    validation: Source | None
    test: Source | None
    steps_per_epoch: int
    rates: np.ndarray
    parameters: int
    multiply_adds: int
    class_weights: np.ndarray | None = None
    saved: Saved | None = None
    earlier: list[tuple[Path, bool]] = dataclasses.field(default_factory=list)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.config.run.output_path)

    @property
    def hours_on_cpu(self) -> float:
        """Estimate of the hours that the remaining steps take on the CPU cores of this process."""
        images = (len(self.rates) - self.step) * self.config.data.batch_size
        return 3 * self.multiply_adds * images / (CPU_MULTIPLY_ADDS * len(os.sched_getaffinity(0))) / 3600

    def sink_size(self, steps: int) -> int | None:
        """Return the number of steps per call in which dataset sinking feeds a device, or None without sinking.

        A divisor near SINK_STEPS, so that calls end at the ends of epochs and at the steps to evaluate or save.

        steps: number of steps in the data set.
        """
        run = self.config.run
        if self.target == "CPU" or run.dataset_sink is False:  # MindSpore has no sink for a CPU.
            return None
        steps = math.gcd(steps, *(n for n in (run.eval_steps, run.save_checkpoint_steps) if n))
        divisors = (n for n in range(1, steps + 1) if steps % n == 0)
        return min(divisors, key=lambda n: abs(math.log(n / SINK_STEPS)))

    @property
    def step(self) -> int:
        """Number of steps done before this start."""
        if self.saved is None:
            return 0
        state = self.saved.state
        if state.devices == self.group.size:
            return state.step
        # Another number of devices resumes from an epoch's end.
        return state.step // state.steps_per_epoch * self.steps_per_epoch

    def counted(self, step: int) -> int:
        """Convert a step before this start to the step count of this number of devices."""
        return step * self.step // self.saved.state.step if self.saved and self.saved.state.step else step

    def batches(self, epoch: int = 0, step: int = 0) -> Dataset:
        """Return the training batches of an epoch, from a step on; see Epochs."""
        config, group, preprocessing = self.config, self.group, self.card.preprocessing
        return training_pipeline(
            self.training, config.data, preprocessing, config.run.seed, group.size, group.rank, epoch, step
        )


def prepare(config: TrainConfig) -> Plan:
    """Open and check everything that a run needs. Raises UserError for anything unusable."""
    target = select_device(config.device)
    check_precision(config.optimizer, target)
    dashboard_writer(config.run.scalars)
    group = ProcessGroup.join()
    ms.set_seed(config.run.seed)
    config = _with_val_split(config)
    present = splits(config.data)
    training = open_source(config.data, "train")
    validation, test = (
        open_evaluated(config.data, split, split == "val" and bool(config.data.val_split)) if split in present else None
        for split in ("val", "test")
    )
    for images in (validation, test):
        if images is not None:
            check_shards(images, group.size)
    preprocessing = preprocessing_of(config.data, training, target)
    num_classes = config.model.num_classes or len(training.classes)
    if num_classes < len(training.classes):
        raise UserError(f"num_classes: {num_classes} is too small: the data set has {len(training.classes)} classes")
    names = training.classes + [f"class {i}" for i in range(len(training.classes), num_classes)]
    arguments = {**dataclasses.asdict(config.model), "num_classes": num_classes}
    card = ModelCard(arguments, names, preprocessing, config.data.dataset, config.data.val_split)
    if group.is_main_process:
        card.warn_of_one_class()
        if replaced_widths(arguments):
            print(replaced_widths(arguments))
    check_image_size(arguments, config.data.image_size)
    if target == "CPU":
        check_memory(arguments, config.data.image_size, config.data.batch_size, training=True)
    net = card.build()
    net.classifier[0].seeded(config.run.seed, group.rank)
    batches = training_pipeline(training, config.data, preprocessing, config.run.seed, group.size, group.rank)
    steps_per_epoch = batches.get_dataset_size()
    rates = learning_rates(config, steps_per_epoch, group.size)
    counts = totals(summarize(arguments, config.data.image_size))
    freeze(net, config.optimizer.freeze)
    weights = _class_weights(config.optimizer.class_weights, training, names)
    plan = Plan(config, group, target, net, card, training, validation, test, steps_per_epoch, rates, *counts, weights)
    return plan if config.run.resume else initialize_weights(plan)


def _with_val_split(config: TrainConfig) -> TrainConfig:
    """Return the configuration with the val_split that applies. Raises UserError where there are such images already.

    Says so if the fraction was not given.
    """
    data, fraction = config.data, val_split_of(config.data)
    if data.val_split and not fraction:
        raise UserError(f"val_split: {data.data_path} has a folder of validation images already: leave val_split out")
    if data.val_split is None and fraction:
        print(f"{data.data_path}: no train/ folder; {fraction:g} of each class is set aside for validation (val_split)")
    return with_keys(config, val_split=fraction)


def learning_rates(config: TrainConfig, steps_per_epoch: int, devices: int) -> np.ndarray:
    """Return the learning rate of every step, scaled to the images per step on all devices."""
    schedule, batch_size = config.schedule, config.data.batch_size
    names = inspect.signature(get_lr).parameters.keys() - {"total_epochs", "steps_per_epoch"}
    given = {name: getattr(schedule, name) for name in names}
    rates = get_lr(total_epochs=schedule.epochs, steps_per_epoch=steps_per_epoch, **given)
    factor = batch_size * devices / (schedule.lr_batch_size or batch_size)
    if schedule.lr_scaling == "none" or factor == 1:
        return rates
    print(f"learning rates are scaled by {factor:g}, as a step has {batch_size * devices} images")
    return scale_lr(rates, factor, schedule.scaling_warmup_epochs * steps_per_epoch)


def _class_weights(given: str | list[float], training: Source, names: list[str]) -> np.ndarray | None:
    """Return the weights of the classes in the loss, and print them. Raises UserError for weights that do not fit."""
    try:
        weights = relative_weights(given, training.labels, len(names))
    except ValueError as error:
        shown = printable(", ".join(names[:10])) + (", ..." if len(names) > 10 else "")
        raise UserError(f"class_weights: {error}; give one for each of the {len(names):,} classes ({shown})") from None
    if weights is not None:
        heaviest = np.argsort(-weights, kind="stable")[:10]
        shown = ", ".join(f"{printable(names[i])} {weights[i]:.3g}" for i in heaviest)
        print(f"weights of the classes in the loss: {shown}{', ...' if len(names) > len(heaviest) else ''}")
    return weights


def resolved_config(config: TrainConfig) -> TrainConfig:
    """Return the configuration for the run's folder, without the flags that concern one start only."""
    return with_keys(config, resume=False, overwrite=False)


def initialize_weights(plan: Plan) -> Plan:
    """Initialize the network's weights and return the plan.

    From random values, or from a pretrained checkpoint, together with its normalisation. Raises UserError for an
    unusable checkpoint.
    """
    run = plan.config.run
    if not run.pretrained:
        return plan
    card = load_pretrained(plan.net, plan.group.file(run.pretrained), plan.card)
    preprocessing = plan.card.preprocessing
    if card and card.preprocessing.normalize == preprocessing.normalize:
        preprocessing = dataclasses.replace(preprocessing, mean=card.preprocessing.mean, std=card.preprocessing.std)
    return dataclasses.replace(plan, card=dataclasses.replace(plan.card, preprocessing=preprocessing))


def resumed_plan(plan: Plan) -> Plan:
    """Return the plan with the newest checkpoint of its run. Raises UserError if the two do not fit."""
    saved, earlier = newest_for_all(plan.folder / CHECKPOINTS, plan.group)
    if saved is None:
        return initialize_weights(plan)
    if (saved.card.model, saved.card.classes) != (plan.card.model, plan.card.classes):
        raise UserError(f"{saved.path}: belongs to another network or other classes than the run's; remove this file")
    differences = changed_keys(plan.config, saved.state.configuration or {})
    if differences:
        raise UserError(
            f"{saved.path}: was trained with other values than those in {RUN_CONFIG} ({'; '.join(differences)}); "
            "restore that file, or remove this checkpoint"
        )
    if saved.state.training_images != len(plan.training):
        raise UserError(
            f"{plan.config.data.data_path}: has {len(plan.training):,} training images, but the run was started with "
            f"{saved.state.training_images:,}; use the same data"
        )
    if saved.card.mindspore_version != ms.__version__:
        print(f"warning: started with MindSpore {saved.card.mindspore_version}: results may differ in the last digits")
    # The mean and standard deviation are those of the network that the run started from.
    card = dataclasses.replace(plan.card, preprocessing=saved.card.preprocessing)
    taken = dataclasses.replace(plan, saved=saved, earlier=earlier, card=card)
    if taken.step > len(plan.rates):
        epochs = plan.config.schedule.epochs
        raise UserError(f"epochs: the run has already completed more than {epochs} epochs; give a larger number")
    return taken
