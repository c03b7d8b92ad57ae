"""A training that can stop at any step and go on as if nothing had happened: what is saved, when, and read again."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any, Callable

import mindspore as ms
import numpy as np
from mindspore import Model, Tensor, nn
from mindspore.train import Callback

from src.checkpoint import not_finite, read_card, read_checkpoint, read_json, save_checkpoint
from src.cli import signals
from src.cli.errors import UserError
from src.cli.signals import Interrupted
from src.config import RUN_CONFIG, TrainConfig, changed_keys, parse_train
from src.devices.processes import ProcessGroup, set_vector, vector
from src.files.atomic import remove_leftovers
from src.model_card import ModelCard
from src.training.write_failures import Writing

# The prefix of the checkpoints, as in the MindSpore tutorial.
CHECKPOINT_PREFIX = "SqueezeNet"
STATE_KEY, LOCAL_KEY = "run_state", "local_values"
# Recomputed from the configuration: the optimizer holds the rates of all steps, for each group of layers.
_NOT_SAVED = "learning_rate"
# What training leaves different on each device: batch norm's statistics, and the counts of its images.
_LOCAL = (".moving_mean", ".moving_variance", "train_correct", "train_seen")


@dataclasses.dataclass
class State:
    """Where a training stands.

    step: steps done.
    steps_per_epoch, devices, training_images: what the order of the images depends on.
    seconds: time spent so far.
    parts: what each part of the training wants to remember, by the part's name; values that JSON knows.
    """

    step: int
    steps_per_epoch: int
    devices: int
    training_images: int
    seconds: float
    parts: dict[str, Any]

    @property
    def ends_epoch(self) -> bool:
        """Whether no epoch is under way."""
        return self.step % self.steps_per_epoch == 0


@dataclasses.dataclass
class Saved:
    """A checkpoint of a run, read and checked."""

    path: Path
    state: State
    card: ModelCard
    parameters: dict[str, ms.Parameter]


class Checkpoints(Callback):
    """The last of the callbacks: saves at every epoch's end, in between as configured, and when the run is interrupted.

    MindSpore's ModelCheckpoint saves an epoch before the epoch is evaluated, and a power failure can take its newest
    file and the ones that it has deleted.

    network: Model's train network, whose parameters are saved.
    capture: returns the State after a number of steps.
    steps, minutes: time between checkpoints within an epoch, or None.
    keep_max: checkpoints kept; the newest of an epoch's end stays beyond that, for another number of devices.
    writing: decides what happens when a checkpoint cannot be written.
    earlier: those of former starts, oldest first, and whether each ends an epoch.
    """

    def __init__(
        self,
        network: nn.Cell,
        folder: Path,
        card: ModelCard,
        job: ProcessGroup,
        capture: Callable[[int], State],
        steps_per_epoch: int,
        steps: int | None,
        minutes: float | None,
        keep_max: int,
        writing: Writing,
        earlier: list[tuple[Path, bool]],
    ):
        super().__init__()
        self.network, self.folder, self.card, self.job, self.capture = network, folder, card, job, capture
        self.steps_per_epoch, self.steps, self.minutes = steps_per_epoch, steps, minutes
        self.keep_max, self.writing = keep_max, writing
        self._kept = earlier  # Path and whether it ends an epoch, oldest first.
        self._saved_at = time.monotonic()

    def on_train_step_end(self, run_context):
        cb = run_context.original_args()
        signal, minutes_due = self._agreed()
        if cb.cur_step_num % self.steps_per_epoch == 0:
            return  # Saved after what the other callbacks do at an epoch's end.
        if signal or minutes_due or (self.steps and cb.cur_step_num % self.steps == 0):
            self._save(cb.cur_step_num)
        if signal:
            raise Interrupted(signal)

    def on_train_epoch_end(self, run_context):
        self._save(run_context.original_args().cur_step_num)
        signal, _ = self._agreed()
        if signal:
            raise Interrupted(signal)

    def _agreed(self) -> tuple[int, bool]:
        """Return the signal that one of the job's processes got, or 0, and whether to save as time is up."""
        due = bool(self.minutes) and self.job.is_main_process and time.monotonic() - self._saved_at >= self.minutes * 60
        number, dues = self.job.all_gather(np.array([signals.received(), due])).max(0)
        return int(number), bool(dues)

    def _save(self, step: int) -> None:
        self._saved_at = time.monotonic()
        broken = not_finite(self.network.trainable_params())
        if broken:  # Within an epoch; NonFinite learns of it by the next loss.
            self.writing.say(f"warning: {broken} is not finite at step {step}: no checkpoint is saved")
            return
        state = self.capture(step)
        parameters = [p for p in self.network.get_parameters() if not p.name.startswith(_NOT_SAVED)]
        local = [p for p in parameters if p.name.endswith(_LOCAL)]
        everyones = self.job.all_gather(vector(local)) if self.job.size > 1 else None
        if not self.job.is_main_process:
            return
        epoch, within = divmod(step - 1, state.steps_per_epoch)
        path = self.folder / f"{CHECKPOINT_PREFIX}-{epoch + 1}_{within + 1}.ckpt"
        beside: dict[str, Any] = {STATE_KEY: dataclasses.asdict(state)}
        if everyones is not None:
            beside[LOCAL_KEY] = everyones
        if self.writing.attempt(f"checkpoint {path.name}", lambda: self._write(parameters, path, beside)):
            self._kept = [kept for kept in self._kept if kept[0] != path] + [(path, state.ends_epoch)]
            self._prune()

    def _write(self, parameters: list, path: Path, beside: dict) -> None:
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True)
            self.writing.say(f"warning: the run's folder was gone; {self.folder} is made again")
        save_checkpoint(parameters, path, self.card, **beside)

    def _prune(self) -> None:
        stay = self._kept[-self.keep_max :]
        if not any(ends_epoch for _, ends_epoch in stay):
            stay = [kept for kept in self._kept if kept[1]][-1:] + stay
        for kept in self._kept:
            if kept not in stay:
                kept[0].unlink(missing_ok=True)
        self._kept = stay


def newest(folder: Path, devices: int) -> tuple[Saved | None, list[tuple[Path, bool]]]:
    """Return the newest sound checkpoint in a folder that so many devices can go on from, and all, oldest first.

    Those that cannot be read are named and passed over. Another number of devices goes on from an epoch's end.
    Raises UserError when there are checkpoints, and none can be used.
    """
    remove_leftovers(folder)
    paths, found = list(folder.glob(f"{CHECKPOINT_PREFIX}-*.ckpt")), []
    for path in paths:
        try:
            found.append(read_saved(path))
        except UserError as error:
            print(f"warning: passed over: {error}", flush=True)
    found.sort(key=lambda saved: saved.state.step / saved.state.steps_per_epoch)
    usable = [saved for saved in found if saved.state.devices == devices or saved.state.ends_epoch]
    if paths and not usable:
        raise UserError(f"{folder}: the run cannot go on from any of the checkpoints; train anew with --overwrite")
    return (usable[-1] if usable else None), [(saved.path, saved.state.ends_epoch) for saved in found]


def newest_for_all(folder: Path, job: ProcessGroup) -> tuple[Saved | None, list[tuple[Path, bool]]]:
    """Return what `newest` finds for the leading process, to all processes of a job."""
    saved, earlier = newest(folder, job.size) if job.is_main_process else (None, [])
    if not job.sum(np.float32(saved is not None)):
        return None, []
    path = job.file(saved.path if saved else f"{CHECKPOINT_PREFIX}-newest.ckpt")
    return saved or read_saved(path), earlier


def read_saved(path: Path) -> Saved:
    """Return a checkpoint of a run. Raises UserError when it is not sound, or none."""
    parameters = read_checkpoint(path)
    try:
        state = State(**read_json(parameters, STATE_KEY))
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: it says nothing of the run that it belongs to") from None
    return Saved(path, state, read_card(parameters, path), parameters)


def begun_run(folder: Path, job: ProcessGroup) -> TrainConfig | None:
    """Return the configuration of the run in a folder of the leading process, or None when there is none."""
    file = folder / RUN_CONFIG
    if not job.sum(np.float32(job.is_main_process and file.is_file())):
        return None
    return parse_train([f"--config={job.file(file)}"], "")


def is_complete(begun: TrainConfig, result: Path, config: TrainConfig, job: ProcessGroup) -> bool:
    """Return whether a run has its result and as many epochs as are asked for.

    Raises UserError, which names the keys, when it was begun with a configuration that computes something else.
    """
    differences = changed_keys(config, begun)
    if differences:
        raise UserError(
            f"{result.parent}: was begun with other values ({'; '.join(differences)}); give --resume those, or choose "
            "another --output_path"
        )
    finished = job.sum(np.float32(job.is_main_process and result.is_file()))
    return bool(finished) and begun.schedule.epochs == config.schedule.epochs


def loss_scale(model: Model) -> dict:
    """Return what a manager of a dynamic loss scale remembers; nothing for a fixed scale."""
    manager = getattr(model, "_loss_scale_manager", None)
    if not isinstance(manager, ms.amp.DynamicLossScaleManager):
        return {}
    return {name: value for name, value in vars(manager).items() if isinstance(value, (int, float))}


def set_loss_scale(model: Model, remembered: dict) -> None:
    """Go on from what `loss_scale` returned."""
    if remembered:
        vars(model._loss_scale_manager).update(remembered)


def restore(network: nn.Cell, saved: Saved, job: ProcessGroup, step: int) -> None:
    """Give a train network the parameters of a checkpoint, its optimizer standing at `step`.

    Raises UserError, which names the first, for parameters that are missing or of another shape.
    """
    parameters = [p for p in network.get_parameters() if not p.name.startswith(_NOT_SAVED)]
    for parameter in parameters:
        held = saved.parameters.get(parameter.name)
        if held is None or held.shape != parameter.shape:
            what = "is missing" if held is None else f"is {held.shape} instead of {parameter.shape}"
            raise UserError(f"{saved.path}: {parameter.name} {what}; it is of another network or optimizer")
        if not np.isfinite(held.asnumpy()).all():
            raise UserError(f"{saved.path}: {parameter.name} holds values that are not finite; remove this file")
    for parameter in parameters:
        parameter.set_data(Tensor(saved.parameters[parameter.name].asnumpy(), parameter.dtype))
        if parameter.name == "global_step":
            parameter.set_data(Tensor(np.full(parameter.shape, step), parameter.dtype))
    if LOCAL_KEY in saved.parameters and saved.state.devices == job.size:
        everyones = saved.parameters[LOCAL_KEY].asnumpy()
        set_vector([p for p in parameters if p.name.endswith(_LOCAL)], everyones[job.rank])
