"""A training run, from its configuration to its folder."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import time
from importlib import metadata
from pathlib import Path

import numpy as np

from src.checkpoint import load_network
from src.cli import signals
from src.cli.errors import UserError
from src.config import RUN_CONFIG, TrainConfig, to_yaml
from src.devices.device import peak_memory_mb
from src.devices.processes import is_worker, serve_as_scheduler
from src.files.atomic import check_place, write_json, write_text
from src.files.locks import locked
from src.files.run_folder import check_run_folder, make_run_folder
from src.inference.evaluation import PICTURE_IMAGES, evaluate, evaluation_grid
from src.training.plan import (
    BATCH_PICTURE,
    BEST,
    CHECKPOINTS,
    LAST,
    MANY_HOURS,
    PREDICTIONS_PICTURE,
    RATE_PICTURE,
    RESULT,
    RUN_ENTRIES,
    SCALARS,
    Plan,
    initialize_weights,
    prepare,
    resolved_config,
    resumed_plan,
)
from src.training.resume import begun_run, is_complete
from src.training.session import Outcome, Session
from src.training.state import read_result


def train(config: TrainConfig) -> dict:
    """Train as configured, write the run's folder, and return its result (result.json).

    Raises UserError, before anything is written, for unusable data, checkpoint, device or folder, and Interrupted,
    after saving the run, on a signal.
    """
    serve_as_scheduler()  # Before any check that could fail: a worker's message is the one to show.
    start = time.perf_counter()
    folder = Path(config.run.output_path)
    if not is_worker():  # In a process group, only the main process sees the folder.
        check_run_folder(folder, () if config.run.resume else RUN_ENTRIES, config.run.overwrite, (CHECKPOINTS,))
    plan = prepare(config)
    config = plan.config
    with locked(folder) if plan.group.is_main_process else contextlib.nullcontext():
        begun = begun_run(folder, plan.group) if config.run.resume else None
        former = None
        if begun and is_complete(begun, folder / RESULT, config, plan.group):
            advice = "remove it and give the same command again, which evaluates the run anew"
            former = read_result(plan.group.file(folder / RESULT), advice)
        epochs = config.schedule.epochs
        if former and former.get("epochs", epochs) == epochs:  # Fewer: more epochs were begun, and stopped.
            print(f"{folder}: the run is complete; give more --epochs to continue")
            return former
        if config.run.resume:
            plan = resumed_plan(plan) if begun else initialize_weights(plan)
            if not plan.saved:
                _check_nothing_is_lost(plan, begun is not None)
                print(f"{folder}: no checkpoint to resume from yet; starting from the first step", flush=True)
        session = Session(plan, start)  # Before anything is written: raises for a checkpoint that does not fit.
        if plan.saved:
            print(f"resuming from {plan.saved.path.name}: step {plan.step} of {len(plan.rates)}", flush=True)
        if plan.group.is_main_process:
            if not plan.saved:
                make_run_folder(folder, RUN_ENTRIES, config.run.overwrite or config.run.resume)
            check_place(*(folder / name for name in RUN_ENTRIES if name not in (CHECKPOINTS, SCALARS)))
            write_text(folder / RUN_CONFIG, to_yaml(resolved_config(config)))
        outcome = run_steps(plan, session)
        result = {
            "parameters": plan.parameters,
            "multiply_adds": plan.multiply_adds,
            "training_images": len(plan.training),
            "epochs": epochs,
            "steps": len(plan.rates),
            **evaluate_final(plan, outcome),
            **dataclasses.asdict(outcome),
            "seconds": outcome.seconds + time.perf_counter() - start,
            "peak_memory_mb": peak_memory_mb(plan.target),
            "device": plan.target,
            "devices": plan.group.size,
            "processor_cores": len(os.sched_getaffinity(0)),
            "versions": {
                "python": platform.python_version(),
                **{p: metadata.version(p) for p in ("mindspore", "numpy")},
            },
        }
        if plan.group.is_main_process:
            if not (folder / RUN_CONFIG).is_file():  # The folder was removed meanwhile.
                write_text(folder / RUN_CONFIG, to_yaml(resolved_config(config)))
            write_json(folder / RESULT, result)
    return result


def _check_nothing_is_lost(plan: Plan, begun: bool) -> None:
    """Raise UserError if the folder has results but no checkpoint to resume from, since a restart would remove them.

    A run killed before its first checkpoint has no results.
    """
    names = (LAST, RESULT) if begun else RUN_ENTRIES
    present = [name for name in names if plan.group.is_main_process and (plan.folder / name).exists()]
    if plan.group.sum(np.float32(bool(present))):
        missing = f"{CHECKPOINTS}/ is empty or missing" if begun else f"{RUN_CONFIG} is missing"
        raise UserError(
            f"{plan.folder}: cannot be resumed: {missing}; choose another --output_path, or give --overwrite to "
            f"remove {', '.join(present) or 'what lies there'}"
        )


def run_steps(plan: Plan, session: Session) -> Outcome:
    """Run the training steps. On a signal, first finish the current step and save a checkpoint."""
    from src import visualize  # Here, because matplotlib is slow to import, and mistakes should show first.

    validation = f"{len(plan.validation):,}" if plan.validation else "none"
    devices = f", {plan.group.size} devices" if plan.group.size > 1 else ""
    trained = sum(parameter.size for parameter in plan.net.trainable_params())
    frozen = f", {trained:,} of them trained" if trained < plan.parameters else ""
    print(
        f"SqueezeNet {plan.config.model.version}: {plan.parameters:,} parameters{frozen}, {plan.multiply_adds:,} "
        f"multiply-adds; {len(plan.training):,} images for training, {validation} for validation{devices}; "
        f"run folder: {plan.folder}",
        flush=True,
    )
    if plan.target == "CPU" and plan.hours_on_cpu > MANY_HOURS:
        print(
            f"warning: this takes about {plan.hours_on_cpu:,.0f} hours on this CPU; squeezenet_cifar10_paper "
            "takes an hour or two, and squeezenet_digits two minutes",
            flush=True,
        )
    with signals.postponed():
        if plan.group.is_main_process:
            schedule = {plan.config.schedule.lr_decay_mode: plan.rates}
            title = f"Learning rate of {len(plan.rates):,} steps"
            visualize.save(visualize.learning_rates(schedule, plan.steps_per_epoch, title), plan.folder / RATE_PICTURE)
            picture_batch(plan)
        return session.run()


def picture_batch(plan: Plan) -> None:
    """Plot the first training batch, augmented and normalised."""
    from src import visualize

    batch = next(plan.batches().take(1).create_dict_iterator(num_epochs=1, output_numpy=True))
    images, preprocessing = batch["image"][:PICTURE_IMAGES], plan.card.preprocessing
    images = images if preprocessing.on_device else preprocessing.undo(images)
    classes = visualize.legible(tuple(plan.card.classes))
    titles = [visualize.label_title(label, classes) for label in batch["label"][:PICTURE_IMAGES]]
    shown = visualize.some_of(len(images), len(batch["image"]), "images")
    title = f"First training batch as the network sees it, {'x'.join(map(str, images.shape[1:3]))} pixels: {shown}"
    visualize.save(visualize.image_grid(images, titles, title), plan.folder / BATCH_PICTURE)


def evaluate_final(plan: Plan, outcome: Outcome) -> dict:
    """Evaluate the checkpoint on disk: the best one on validation images, or else the last one.

    Uses the test images, if there are any, which nothing else uses. Plots predictions.
    """
    from src import visualize

    group, data = plan.group, plan.config.data
    checkpoint = BEST if plan.validation else LAST
    figures: dict = {"checkpoint": checkpoint, "validation": outcome.best, "test": None}
    images = plan.test or plan.validation
    if images:
        print(f"evaluating {checkpoint} on {len(images):,} {'test' if plan.test else 'validation'} images", flush=True)
        net, card = load_network(group.file(plan.folder / checkpoint))
        evaluation = evaluate(
            net,
            images,
            card.preprocessing,
            data.batch_size,
            data.num_workers,
            group=group,
            max_broken_images=data.max_broken_images,
        )
        if plan.test:
            figures["test"] = evaluation.summary()
        if group.is_main_process:
            shown = evaluation_grid(evaluation, images, card.classes, f"{'test' if plan.test else 'validation'} images")
            visualize.save(shown, plan.folder / PREDICTIONS_PICTURE)
    return figures
