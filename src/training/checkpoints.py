"""Callback that saves a run's checkpoints, and stops the run after a signal."""

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
from src.optimizers.averaging import STATISTICS
from src.optimizers.momentum import Momentum
from src.training.callbacks import passed_multiple
from src.training.state import State
from src.training.write_failures import Writing

# The prefix of the checkpoints, as in the MindSpore tutorial.
CHECKPOINT_PREFIX = "SqueezeNet"
STATE_KEY, LOCAL_KEY = "run_state", "local_values"
# Recomputed: the rates of all steps, for each group of layers, from the configuration; and zeros.
NOT_SAVED = ("learning_rate", f"{Momentum.UNUSED}.")
# Parameters that differ between devices: batch norm's statistics, and the sums over each device's images.
LOCAL = (".moving_mean", ".moving_variance", "train_correct", "train_seen", "train_loss_sum", STATISTICS)


class Checkpoints(Callback):
    """Callback that saves checkpoints at every epoch's end, in between as configured, and on interruption.

    The last of a run's callbacks. MindSpore's ModelCheckpoint saves an epoch before its evaluation, and a power failure
    can destroy its newest file after older ones were deleted.

    network: Model's train network, whose parameters are saved.
    capture: returns the State after a number of steps.
    steps, minutes: intervals of checkpoints within an epoch, or None.
    keep_max: number of checkpoints to keep, plus the newest of an epoch's end, for another number of devices.
    writing: handles write failures.
    earlier: checkpoints of former starts, oldest first, and whether each ends an epoch.
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
            return  # Saved after the other callbacks' work at an epoch's end.
        if signal or minutes_due or passed_multiple(cb, self.steps):
            self._save(cb.cur_step_num)
        self._obey(signal, cb.cur_step_num)

    def on_train_epoch_end(self, run_context):
        step = run_context.original_args().cur_step_num
        self._save(step)
        self._obey(self._agreed()[0], step)

    def _obey(self, signal: int, step: int) -> None:
        """Raise Interrupted after a signal, and tell the user how to resume."""
        if signal:
            self.writing.say(f"stopped at step {step}; continue with: python train.py --resume {self.folder.parent}")
            raise Interrupted(signal)

    def _agreed(self) -> tuple[int, bool]:
        """Return the signal that any process has received, or 0, and whether a checkpoint is due by time."""
        due = (
            bool(self.minutes) and self.group.is_main_process and time.monotonic() - self._saved_at >= self.minutes * 60
        )
        number, dues = self.group.all_gather(np.array([signals.received(), due])).max(0)
        return int(number), bool(dues)

    def _save(self, step: int) -> None:
        self._saved_at = time.monotonic()
        broken = not_finite(self.network.trainable_params())
        if broken:  # Within an epoch; NonFinite notices at the next loss.
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
        extra: dict[str, Any] = {STATE_KEY: dataclasses.asdict(state)}
        if everyones is not None:
            extra[LOCAL_KEY] = everyones
        if self.writing.attempt(f"checkpoint {path.name}", lambda: self._write(parameters, path, extra)):
            self._kept = [kept for kept in self._kept if kept[0] != path] + [(path, state.ends_epoch)]
            self._prune()

    def _write(self, parameters: list, path: Path, extra: dict) -> None:
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True)
            self.writing.say(f"warning: the run's folder was missing; {self.folder} has been recreated")
        save_checkpoint(parameters, path, self.card, **extra)

    def _prune(self) -> None:
        stay = self._kept[-self.keep_max :]
        if not any(ends_epoch for _, ends_epoch in stay):
            stay = [kept for kept in self._kept if kept[1]][-1:] + stay
        for kept in self._kept:
            if kept not in stay:
                kept[0].unlink(missing_ok=True)
        self._kept = stay
