"""A training run, from its configuration to its folder."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import os
import platform
import time
from importlib import metadata
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore.dataset import Dataset

from src import interruption
from src.checkpoint import ModelCard, load_network, load_pretrained
from src.config import RUN_CONFIG, TrainConfig, to_yaml, with_keys
from src.dashboard import dashboard_writer
from src.dataset import check_shares, evaluation_pipeline, open_source, preprocessing_of, splits, training_pipeline
from src.dataset.source import Source, Subset
from src.device import peak_memory_mb, select_device
from src.errors import UserError
from src.evaluation import evaluate
from src.finetuning import freeze
from src.job import Job, is_worker
from src.lr_generator import get_lr, scale_lr
from src.network.summary import check_image_size, summarize, totals
from src.optimization import check_precision
from src.output import check_run_folder, locked, make_run_folder, write_json, write_text
from src.resume import Saved, begun_run, is_complete, newest_for_all
from src.session import BEST, CHECKPOINTS, CURVES_PICTURE, LAST, LOG, METRICS, SCALARS, Outcome, Session
from src.squeezenet import SqueezeNet
from src.whitening import IMAGES as WHITENING_IMAGES
from src.whitening import whitened

RESULT, PREDICTIONS_PICTURE = "result.json", "predictions.png"
BATCH_PICTURE, RATE_PICTURE = "training_batch.png", "learning_rate.png"
# Everything that a run writes, which is what --overwrite removes.
RUN_ENTRIES = (
    *(RUN_CONFIG, LOG, METRICS, RESULT, CHECKPOINTS, BEST, LAST, SCALARS),
    *(BATCH_PICTURE, RATE_PICTURE, CURVES_PICTURE, PREDICTIONS_PICTURE),
)
PICTURE_IMAGES = 32  # As in the MindSpore tutorial.


@dataclasses.dataclass
class Plan:
    """A run that has been checked and can start; nothing of it is written yet.

    saved: the checkpoint that it goes on from, or None.
    earlier: the checkpoints in its folder, oldest first, and whether each ends an epoch.
    """

    config: TrainConfig
    job: Job
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
    saved: Saved | None = None
    earlier: list[tuple[Path, bool]] = dataclasses.field(default_factory=list)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.config.run.output_path)

    @property
    def sink(self) -> bool:
        """Whether the device is fed an epoch at a time."""
        run = self.config.run
        if run.dataset_sink is not None:
            return run.dataset_sink
        return self.target != "CPU" and run.eval_steps is None and run.on_nan != "skip"

    @property
    def step(self) -> int:
        """Steps done before, when the run goes on from a checkpoint."""
        if self.saved is None:
            return 0
        state = self.saved.state
        if state.devices == self.job.size:
            return state.step
        return state.step // state.steps_per_epoch * self.steps_per_epoch  # Other devices go on from an epoch's end.

    def counted(self, step: int) -> int:
        """Return a step of the run before this start, counted in steps of this number of devices."""
        return step * self.step // self.saved.state.step if self.saved and self.saved.state.step else step

    def batches(self, epoch: int = 0, step: int = 0) -> Dataset:
        """Return the training batches of each epoch from a step of an epoch on, of that epoch's size; see Epochs."""
        config, job, preprocessing = self.config, self.job, self.card.preprocessing
        if epoch < config.data.early_epochs:
            preprocessing = dataclasses.replace(preprocessing, image_size=config.data.early_size)
        return training_pipeline(
            *(self.training, config.data, preprocessing, config.run.seed, job.size, job.rank, epoch, step)
        )


def train(config: TrainConfig) -> dict:
    """Train as configured, write the run's folder, and return its result (result.json).

    Raises UserError, before anything is written, for data, checkpoint, device or folder that cannot be used, and
    Interrupted, once the run is saved, after a signal.
    """
    start = time.perf_counter()
    folder = Path(config.run.output_path)
    if not is_worker():  # Of several, the one that leads will find out.
        check_run_folder(folder, () if config.run.resume else RUN_ENTRIES, config.run.overwrite)
    plan = prepare(config)
    with locked(folder, plan.job.leads):
        begun = begun_run(folder, plan.job) if config.run.resume else None
        if begun and is_complete(begun, folder / RESULT, config, plan.job):
            print(f"{folder}: the run is complete; give more --epochs to train on")
            return json.loads(plan.job.file(folder / RESULT).read_text(encoding="utf-8"))
        if config.run.resume:
            plan = taken_up(plan) if begun else with_first_weights(plan)
        if plan.saved:
            print(f"resuming from {plan.saved.path.name}: step {plan.step} of {len(plan.rates)}", flush=True)
        elif config.run.resume:
            print(f"{folder}: there is no checkpoint to go on from yet; starting", flush=True)
        if plan.job.leads:
            if not plan.saved:
                make_run_folder(folder, RUN_ENTRIES, config.run.overwrite or config.run.resume)
            write_text(folder / RUN_CONFIG, to_yaml(as_written(config)))
        outcome = steps_of(plan, start)
        result = {
            "parameters": plan.parameters,
            "multiply_adds": plan.multiply_adds,
            "training_images": len(plan.training),
            "steps": len(plan.rates),
            **conclude(plan, outcome),
            **dataclasses.asdict(outcome),
            "seconds": outcome.seconds + time.perf_counter() - start,
            "peak_memory_mb": peak_memory_mb(plan.target),
            "device": plan.target,
            "devices": plan.job.size,
            "processor_cores": os.cpu_count(),
            "versions": {
                "python": platform.python_version(),
                **{p: metadata.version(p) for p in ("mindspore", "numpy")},
            },
        }
        if plan.job.leads:
            if not (folder / RUN_CONFIG).is_file():  # The folder was gone meanwhile.
                write_text(folder / RUN_CONFIG, to_yaml(as_written(config)))
            write_json(folder / RESULT, result)
    return result


def prepare(config: TrainConfig) -> Plan:
    """Open and check all that a run needs. Raises UserError for what cannot be used."""
    target = select_device(config.device)
    check_precision(config.optimizer, target)
    dashboard_writer(config.run.scalars)
    job = Job.join()
    ms.set_seed(config.run.seed)
    present = splits(config.data)
    training = open_source(config.data, "train")
    validation, test = (open_source(config.data, split) if split in present else None for split in ("val", "test"))
    for images in (validation, test):
        if images is not None:
            check_shares(images, job.size)
    preprocessing = preprocessing_of(config.data, training)
    num_classes = config.model.num_classes or len(training.classes)
    if num_classes < len(training.classes):
        raise UserError(f"num_classes: {num_classes} are too few for the data set, which has {len(training.classes)}")
    names = training.classes + [f"class {i}" for i in range(len(training.classes), num_classes)]
    arguments = {**dataclasses.asdict(config.model), "num_classes": num_classes}
    nowhere = with_keys(as_written(config), output_path=None)  # The same run in another folder.
    digest = hashlib.sha256(to_yaml(nowhere).encode()).hexdigest()
    card = ModelCard(arguments, names, preprocessing, config.data.dataset, config.data.val_split, configuration=digest)
    for size in (config.data.image_size, config.data.early_size or config.data.image_size):
        check_image_size(arguments, size)
    net = card.build()
    net.classifier[0].seeded(config.run.seed, job.rank)
    batches = training_pipeline(training, config.data, preprocessing, config.run.seed, job.size, job.rank)
    steps_per_epoch = batches.get_dataset_size()
    rates = learning_rates(config, steps_per_epoch, job.size)
    counts = totals(summarize(arguments, config.data.image_size))
    freeze(net, config.optimizer.freeze)
    plan = Plan(config, job, target, net, card, training, validation, test, steps_per_epoch, rates, *counts)
    return plan if config.run.resume else with_first_weights(plan)


def learning_rates(config: TrainConfig, steps_per_epoch: int, devices: int) -> np.ndarray:
    """Return the learning rate of every step, scaled to the images a step on all devices."""
    schedule, batch_size = config.schedule, config.data.batch_size
    names = inspect.signature(get_lr).parameters.keys() - {"total_epochs", "steps_per_epoch"}
    given = {name: getattr(schedule, name) for name in names}
    rates = get_lr(total_epochs=schedule.epochs, steps_per_epoch=steps_per_epoch, **given)
    factor = batch_size * devices / (schedule.lr_batch_size or batch_size)
    if schedule.lr_scaling == "none" or factor == 1:
        return rates
    print(f"learning rates are scaled by {factor:g}, as a step has {batch_size * devices} images")
    return scale_lr(rates, factor, schedule.scaling_warmup_epochs * steps_per_epoch)


def as_written(config: TrainConfig) -> TrainConfig:
    """Return a configuration as the run's folder holds it, without what was asked of one start."""
    return with_keys(config, resume=False, overwrite=False)


def with_first_weights(plan: Plan) -> Plan:
    """Return the plan with the weights that its run starts from.

    They are fresh, with a first convolution that whitens when one is asked for, or those of a pretrained checkpoint,
    with images normalised for them.

    Raises UserError for a checkpoint that cannot be used.
    """
    run = plan.config.run
    if run.whiten_stem:
        whitened(plan.net, first_images(plan, WHITENING_IMAGES))
    if not run.pretrained:
        return plan
    card = load_pretrained(plan.net, plan.job.file(run.pretrained), plan.card)
    preprocessing = plan.card.preprocessing
    if card and card.preprocessing.normalize == preprocessing.normalize:
        preprocessing = dataclasses.replace(preprocessing, mean=card.preprocessing.mean, std=card.preprocessing.std)
    return dataclasses.replace(plan, card=dataclasses.replace(plan.card, preprocessing=preprocessing))


def first_images(plan: Plan, count: int) -> np.ndarray:
    """Return the first `count` training images, or all, as an evaluation would show them to the network (N, C, H, W).

    They are the same on all devices.
    """
    images = Subset(plan.training, np.arange(min(count, len(plan.training))))
    data = plan.config.data
    batches = evaluation_pipeline(
        *(images, plan.card.preprocessing.on_host(), data.batch_size, data.num_workers),
        max_broken_images=data.max_broken_images,
    )
    return np.concatenate([batch["image"] for batch in batches.create_dict_iterator(num_epochs=1, output_numpy=True)])


def taken_up(plan: Plan) -> Plan:
    """Return the plan with the newest checkpoint of its run. Raises UserError for one that does not fit the plan."""
    saved, earlier = newest_for_all(plan.folder / CHECKPOINTS, plan.job)
    if saved is None:
        return with_first_weights(plan)
    if (saved.card.model, saved.card.classes) != (plan.card.model, plan.card.classes):
        raise UserError(f"{saved.path}: is of another network or of other classes than the run; remove this file")
    if saved.state.training_images != len(plan.training):
        raise UserError(
            f"{plan.config.data.data_path}: has {len(plan.training):,} training images, and the run was begun with "
            f"{saved.state.training_images:,}; give it the same data"
        )
    if saved.card.mindspore_version != ms.__version__:
        print(f"warning: begun with MindSpore {saved.card.mindspore_version}: results may differ in the last digits")
    # The mean and standard deviation are those of the network that the run began with.
    card = dataclasses.replace(plan.card, preprocessing=saved.card.preprocessing)
    taken = dataclasses.replace(plan, saved=saved, earlier=earlier, card=card)
    if taken.step > len(plan.rates):
        raise UserError(
            f"epochs: the run has done more than {plan.config.schedule.epochs} already; give at least those"
        )
    return taken


def steps_of(plan: Plan, start: float) -> Outcome:
    """Run the training steps. A signal meanwhile lets the step end and the run be saved first."""
    from src import visualize  # Here, because matplotlib is slow to import, and mistakes should show first.

    validation = f"{len(plan.validation):,}" if plan.validation else "no"
    devices = f", {plan.job.size} devices" if plan.job.size > 1 else ""
    trained = sum(parameter.size for parameter in plan.net.trainable_params())
    frozen = f", {trained:,} of them trained" if trained < plan.parameters else ""
    print(
        f"SqueezeNet {plan.config.model.version}: {plan.parameters:,} parameters{frozen}, {plan.multiply_adds:,} "
        f"multiply-adds; {len(plan.training):,} images for training, {validation} for validation{devices}; "
        f"run folder: {plan.folder}",
        flush=True,
    )
    with interruption.postponed():
        if plan.job.leads:
            visualize.learning_rate(plan.folder / RATE_PICTURE, plan.rates, plan.steps_per_epoch)
            picture_batch(plan)
        return Session(plan, start).run()


def picture_batch(plan: Plan) -> None:
    """Write the first training images as the network will see them, augmented and normalised."""
    from src import visualize

    batch = next(plan.batches().take(1).create_dict_iterator(num_epochs=1, output_numpy=True))
    images, preprocessing = batch["image"][:PICTURE_IMAGES], plan.card.preprocessing
    images = images if preprocessing.on_device else preprocessing.undo(images)
    titles = [visualize.label_title(label, plan.card.classes) for label in batch["label"][:PICTURE_IMAGES]]
    visualize.image_grid(plan.folder / BATCH_PICTURE, images, titles)


def conclude(plan: Plan, outcome: Outcome) -> dict:
    """Evaluate the chosen checkpoint as it lies on disk: the best on validation images, or else the last.

    Test images, where the data set has some, are used here alone. Leaves a picture of predictions.
    """
    from src import visualize

    job, data = plan.job, plan.config.data
    checkpoint = BEST if plan.validation else LAST
    figures: dict = {"checkpoint": checkpoint, "validation": outcome.best, "test": None}
    images = plan.test or plan.validation
    if images:
        net, card = load_network(job.file(plan.folder / checkpoint))
        evaluation = evaluate(
            *(net, images, card.preprocessing, data.batch_size, data.num_workers, job, data.max_broken_images)
        )
        if plan.test:
            figures["test"] = evaluation.summary()
        if job.leads:
            shown = slice(min(PICTURE_IMAGES, len(evaluation.indices)))
            predicted = evaluation.predictions[shown]
            visualize.prediction_grid(
                plan.folder / PREDICTIONS_PICTURE,
                [images.image(int(i)) for i in evaluation.indices[shown]],
                [card.classes[p] for p in predicted],
                predicted == evaluation.labels[shown],
            )
    return figures
