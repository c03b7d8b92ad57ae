"""Records of a run: metrics.csv, the log, the scalars, and progress on the terminal."""

from __future__ import annotations

import csv
import time
from typing import Callable, TextIO

import numpy as np
from mindspore import Parameter
from mindspore.train import Callback
from tqdm import tqdm

from src.devices.processes import ProcessGroup
from src.loss import CrossEntropy
from src.training.callbacks import Evaluator, passed_multiple
from src.training.state import ProgressState

MAX_HISTORY_BYTES = 1 << 30
HISTORY_COLUMNS = ("step", "epoch", "lr", "loss", "accuracy", "val_loss", "val_accuracy", "seconds")
# Fits into 80 columns with room for the bar.
BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class History:
    """Writer of metrics.csv, which also passes the metrics on to a dashboard.

    Each row has step, epoch, the run's duration in seconds, and either lr, loss and accuracy of the training steps
    since the previous row, or val_loss and val_accuracy.

    clock: returns the duration.
    former: text of the metrics.csv of earlier starts, which the stream appends to, or None for a new file; a file
        without seconds stays without them.
    """

    def __init__(
        self,
        stream: TextIO,
        clock: Callable[[], float],
        dashboard: Callable[[str, float, int], None] | None = None,
        former: str | None = None,
    ):
        self._dashboard, self._clock = dashboard, clock
        self._stream = stream
        columns = former.splitlines()[0].split(",") if former else HISTORY_COLUMNS
        self._writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        if former is None:
            self._writer.writeheader()
        self.rows = read_history(former or "")

    def add(self, step: int, epoch: int, **figures: float) -> None:
        """Add a row. `figures` are those of HISTORY_COLUMNS except the seconds."""
        self.rows.append({"step": step, "epoch": epoch, **figures, "seconds": round(self._clock(), 2)})
        self._writer.writerow(self.rows[-1])
        self._stream.flush()
        if self._dashboard:
            for name, value in figures.items():
                tag = f"val/{name[4:]}" if name.startswith("val_") else f"train/{name}"
                self._dashboard(tag, value, step)


def read_history(text: str) -> list[dict]:
    """Parse the text of a metrics.csv. Raises ValueError for other text."""
    whole = {"step", "epoch"}
    reader = csv.DictReader(text.splitlines())
    if not whole <= set(reader.fieldnames or whole) <= set(HISTORY_COLUMNS):
        raise ValueError("its columns are others")
    try:
        return [
            {
                name: int(value) if name in whole else float(value)
                for name, value in row.items()
                if value or name in whole
            }
            for row in reader
        ]
    except (csv.Error, TypeError) as error:
        raise ValueError("it is no table") from error


class ProgressLogger(Callback):
    """Callback that records progress: a bar on a terminal, lines elsewhere and in the log, and rows of History.

    rates: learning rate of each update.
    global_step: the optimizer's count of updates, less than the steps when a loss scale has overflowed.
    loss: the training loss cell, which sums losses and counts images.
    log_steps: steps between rows and lines.
    global_batch: images per step on all devices.
    log, terminal: streams for lines; a terminal with a progress bar gets only those of `say`.
    group: the process group, over which metrics are averaged.
    """

    def __init__(
        self,
        rates: np.ndarray,
        global_step: Parameter,
        steps_per_epoch: int,
        loss: CrossEntropy,
        history: History,
        log_steps: int,
        global_batch: int,
        log: TextIO,
        terminal: TextIO,
        group: ProcessGroup,
    ):
        super().__init__()
        self.rates, self.global_step = rates, global_step
        self.loss, self.history, self.log_steps = loss, history, log_steps
        self.steps_per_epoch, self.epochs = steps_per_epoch, len(rates) // steps_per_epoch
        self.global_batch, self.log, self.terminal, self.group = global_batch, log, terminal, group
        self.evaluator: Evaluator | None = None  # The callback whose time does not count as training.
        self.images_per_second: float | None = None
        self._recorded = 0
        self._first_step_end: tuple[int, float] | None = None
        self._bar = tqdm(disable=True)  # Until training begins.

    def state(self) -> ProgressState:
        """Return the state for a checkpoint."""
        return ProgressState(self._recorded)

    def restore(self, state: dict) -> None:
        """Restore the state from a checkpoint."""
        self._recorded = state["recorded"]

    def on_train_begin(self, run_context):
        done = run_context.original_args().cur_step_num
        if self._first_step_end is None:
            self.say("compiling the training graph: once, some seconds on a CPU and up to minutes on an Ascend")
            self._bar = tqdm(total=len(self.rates), initial=done, bar_format=BAR, dynamic_ncols=True, disable=None)

    def on_train_step_end(self, run_context):
        cb = run_context.original_args()
        step, epoch = cb.cur_step_num, cb.cur_epoch_num
        starts = self._first_step_end is None
        self._measure(step)
        if not self._bar.disable:
            _, accuracy = self._figures(ProcessGroup())
            speed = f"{self.images_per_second:.0f} img/s, " if self.images_per_second else ""
            self._bar.set_description_str(f"epoch {epoch}/{self.epochs}", refresh=False)
            self._bar.set_postfix_str(f"{speed}loss {cb.mean_loss:.3f}, acc {accuracy:.1%}", refresh=False)
            self._bar.update(step - self._bar.n)
        if passed_multiple(cb, self.log_steps):
            self._record(step, epoch)
        elif starts and step % self.steps_per_epoch:
            self._say_figures(step, epoch, *self._figures(self.group))

    def on_train_epoch_end(self, run_context):
        cb = run_context.original_args()
        if cb.cur_step_num > self._recorded:
            self._record(cb.cur_step_num, cb.cur_epoch_num)

    def close(self) -> None:
        """Close the progress bar."""
        self._bar.close()

    def phase(self, what: str) -> None:
        """Show on the progress bar the current work between steps."""
        self._bar.set_description_str(what)

    def say(self, line: str) -> None:
        """Write a line to the log and to the terminal, above the progress bar."""
        print(line, file=self.log, flush=True)
        self._bar.clear()  # tqdm.write does so only for the streams that sys has, and stdout is the log now.
        print(line, file=self.terminal, flush=True)
        self._bar.refresh()

    def _measure(self, step: int) -> None:
        """Measure the images per second since the end of the first step, which compiles the graph."""
        now = time.perf_counter() - (self.evaluator.seconds if self.evaluator else 0)
        if self._first_step_end is None:
            self._first_step_end = (step, now)
        elif now > self._first_step_end[1]:
            steps = step - self._first_step_end[0]
            self.images_per_second = steps * self.global_batch / (now - self._first_step_end[1])

    def _figures(self, group: ProcessGroup) -> tuple[float, float]:
        """Return the mean loss and the accuracy since the last record, over the images of a group."""
        counters = (self.loss.loss_sum, self.loss.correct, self.loss.seen)
        loss_sum, correct, seen = group.sum(np.array([float(counter.asnumpy()) for counter in counters], np.float32))
        return float(loss_sum) / max(1.0, float(seen)), float(correct) / max(1.0, float(seen))

    def _rate(self) -> float:
        """Return the learning rate of the last update."""
        return float(self.rates[max(0, int(self.global_step.asnumpy().item()) - 1)])

    def _record(self, step: int, epoch: int) -> None:
        loss, accuracy = self._figures(self.group)
        self.history.add(step, epoch, lr=self._rate(), loss=loss, accuracy=accuracy)
        self._say_figures(step, epoch, loss, accuracy)
        self._recorded = step
        self.loss.restart()

    def _say_figures(self, step: int, epoch: int, loss: float, accuracy: float) -> None:
        """Write the line of a step to the log, and to a terminal that shows no bar."""
        line = f"step {step}/{len(self.rates)}  epoch {epoch}  lr {self._rate():.3g}  loss {loss:.4f}  "
        line += f"accuracy {accuracy:.2%}"
        if self.images_per_second:
            left = (len(self.rates) - step) * self.global_batch / self.images_per_second
            line += f"  {self.images_per_second:.0f} images/s  {tqdm.format_interval(left)} left"
        print(line, file=self.log, flush=True)
        if self._bar.disable:
            print(line, file=self.terminal, flush=True)
