"""The callback that saves checkpoints of a run, and ends it after a signal."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any, Callable

import numpy as np
from mindspore import nn
from mindspore.train import Callback

from src.checkpoint import not_finite, save_checkpoint
from src.cli import signals
from src.cli.signals import Interrupted
from src.devices.processes import ProcessGroup, vector
from src.model_card import ModelCard
from src.optimizers.momentum import Momentum
from src.training.callbacks import passed_multiple
from src.training.state import State
from src.training.write_failures import Writing

# The prefix of the checkpoints, as in the MindSpore tutorial.
CHECKPOINT_PREFIX = "SqueezeNet"
STATE_KEY, LOCAL_KEY = "run_state", "local_values"
# Recomputed: the rates of all steps, for each group of layers, from the configuration; and zeros.
NOT_SAVED = ("learning_rate", f"{Momentum.UNUSED}.")
# What training leaves different on each device: batch norm's statistics, and the sums over its images.
LOCAL = (".moving_mean", ".moving_variance", "train_correct", "train_seen", "train_loss_sum")


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
        group: ProcessGroup,
        capture: Callable[[int], State],
        steps_per_epoch: int,
        steps: int | None,
        minutes: float | None,
        keep_max: int,
        writing: Writing,
        earlier: list[tuple[Path, bool]],
    ):
        super().__init__()
        self.network, self.folder, self.card, self.group, self.capture = network, folder, card, group, capture
        self.steps_per_epoch, self.steps, self.minutes = steps_per_epoch, steps, minutes
        self.keep_max, self.writing = keep_max, writing
        self._kept = earlier  # Path and whether it ends an epoch, oldest first.
        self._saved_at = time.monotonic()

    def on_train_step_end(self, run_context):
        cb = run_context.original_args()
        signal, minutes_due = self._agreed()
        if cb.cur_step_num % self.steps_per_epoch == 0:
            return  # Saved after what the other callbacks do at an epoch's end.
        if signal or minutes_due or passed_multiple(cb, self.steps):
            self._save(cb.cur_step_num)
        if signal:
            raise Interrupted(signal)

    def on_train_epoch_end(self, run_context):
        self._save(run_context.original_args().cur_step_num)
        signal, _ = self._agreed()
        if signal:
            raise Interrupted(signal)

    def _agreed(self) -> tuple[int, bool]:
        """Return the signal that one of the processes got, or 0, and whether to save as time is up."""
        due = (
            bool(self.minutes) and self.group.is_main_process and time.monotonic() - self._saved_at >= self.minutes * 60
        )
        number, dues = self.group.all_gather(np.array([signals.received(), due])).max(0)
        return int(number), bool(dues)

    def _save(self, step: int) -> None:
        self._saved_at = time.monotonic()
        broken = not_finite(self.network.trainable_params())
        if broken:  # Within an epoch; NonFinite learns of it by the next loss.
            self.writing.say(f"warning: {broken} is not finite at step {step}: no checkpoint is saved")
            return
        state = self.capture(step)
        parameters = [p for p in self.network.get_parameters() if not p.name.startswith(NOT_SAVED)]
        local = [p for p in parameters if p.name.endswith(LOCAL)]
        everyones = self.group.all_gather(vector(local)) if self.group.size > 1 else None
        if not self.group.is_main_process:
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
