"""The records of a run: metrics.csv, the log, the scalars, and progress on the terminal."""

from __future__ import annotations

import csv
import math
import sys
import time
from typing import Callable, TextIO

import numpy as np
from mindspore.train import Callback
from tqdm import tqdm

from src.devices.processes import ProcessGroup
from src.loss import CrossEntropy
from src.training.callbacks import Evaluator

MAX_HISTORY_BYTES = 1 << 30
HISTORY_COLUMNS = ("step", "epoch", "lr", "loss", "accuracy", "val_loss", "val_accuracy", "seconds")


class History:
    """The rows of metrics.csv, written as they come, and the same figures for a dashboard.

    Each row has step, epoch, either lr, loss and accuracy of the training steps since the row before, or val_loss and
    val_accuracy, and the seconds that the run has taken.

    clock: returns those.
    former: the text of metrics.csv of the steps before, which is written again. A run begun without the seconds goes on
        without.
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
        else:
            stream.write(former)
        self.rows = read_history(former or "")

    def add(self, step: int, epoch: int, **figures: float) -> None:
        """Add a row. `figures` are those of HISTORY_COLUMNS but for the seconds."""
        self.rows.append({"step": step, "epoch": epoch, **figures, "seconds": round(self._clock(), 2)})
        self._writer.writerow(self.rows[-1])
        self._stream.flush()
        if self._dashboard:
            for name, value in figures.items():
                tag = f"val/{name[4:]}" if name.startswith("val_") else f"train/{name}"
                self._dashboard(tag, value, step)


def read_history(text: str) -> list[dict]:
    """Return the rows of History in a text of metrics.csv. Raises ValueError for another text."""
    whole = {"step", "epoch"}
    reader = csv.DictReader(text.splitlines())
    if not whole <= set(reader.fieldnames or whole) <= set(HISTORY_COLUMNS):
        raise ValueError("its columns are others")
    try:
        return [
            {name: int(value) if name in whole else float(value) for name, value in row.items() if value}
            for row in reader
        ]
    except (csv.Error, TypeError) as error:
        raise ValueError("it is no table") from error


class ProgressLogger(Callback):
    """Follows the steps: a progress bar on a terminal, lines elsewhere and in the log, a row of History.

    rates: learning rate of each step.
    loss: the training loss cell, which counts images seen and recognised.
    log_steps: steps between rows and lines.
    global_batch: images a step on all devices.
    log, terminal: where lines go; to a terminal that shows a bar only those that are said.
    job: the devices that train, whose mean is shown.
    """

    def __init__(
        self,
        rates: np.ndarray,
        steps_per_epoch: int,
        loss: CrossEntropy,
        history: History,
        log_steps: int,
        global_batch: int,
        log: TextIO,
        terminal: TextIO,
        job: ProcessGroup,
    ):
        super().__init__()
        self.rates, self.loss, self.history, self.log_steps = rates, loss, history, log_steps
        self.epochs = len(rates) // steps_per_epoch
        self.global_batch, self.log, self.terminal, self.job = global_batch, log, terminal, job
        self.evaluator: Evaluator | None = None  # The callback whose time does not count as training.
        self.images_per_second: float | None = None
        self._losses: list[float] = []
        self._recorded = 0
        self._first_step_end: tuple[int, float] | None = None
        self._bar: tqdm | None = None

    def state(self) -> dict:
        """Return what a resumed run needs."""
        return {"losses": self._losses, "recorded": self._recorded}

    def restore(self, state: dict) -> None:
        """Go on from what `state` returned."""
        self._losses, self._recorded = state["losses"], state["recorded"]

    def on_train_begin(self, run_context):
        if self._bar is None and sys.stderr.isatty():
            done = run_context.original_args().cur_step_num
            self._bar = tqdm(total=len(self.rates), initial=done, unit="step", dynamic_ncols=True)

    def on_train_step_end(self, run_context):
        cb = run_context.original_args()
        step, epoch, loss = cb.cur_step_num, cb.cur_epoch_num, cb.mean_loss
        if math.isfinite(loss):
            self._losses.append(loss)
        self._measure(step)
        if self._bar is not None:
            self._bar.set_description(f"epoch {epoch}/{self.epochs}", refresh=False)
            figures = f"{self._figures(loss, self._accuracy(ProcessGroup()))}  lr {self.rates[step - 1]:.3g}"
            self._bar.set_postfix_str(figures, refresh=False)
            self._bar.update(step - self._bar.n)
        # In sink mode a call comes once an epoch only.
        if step // self.log_steps > self._recorded // self.log_steps:
            self._record(step, epoch)

    def on_train_epoch_end(self, run_context):
        cb = run_context.original_args()
        if cb.cur_step_num > self._recorded:
            self._record(cb.cur_step_num, cb.cur_epoch_num)

    def close(self) -> None:
        """Leave the progress bar as it is."""
        if self._bar is not None:
            self._bar.close()

    def say(self, line: str) -> None:
        """Write a line to the log and, past the progress bar, to the terminal."""
        print(line, file=self.log, flush=True)
        if self._bar is not None:
            self._bar.write(line, file=self.terminal)
        else:
            print(line, file=self.terminal, flush=True)

    def _measure(self, step: int) -> None:
        """Take the images per second since the end of the first step, which compiles the graph."""
        now = time.perf_counter() - (self.evaluator.seconds if self.evaluator else 0)
        if self._first_step_end is None:
            self._first_step_end = (step, now)
        elif now > self._first_step_end[1]:
            steps = step - self._first_step_end[0]
            self.images_per_second = steps * self.global_batch / (now - self._first_step_end[1])

    def _accuracy(self, job: ProcessGroup) -> float:
        """Return the accuracy since the last record."""
        counters = (self.loss.correct, self.loss.seen)
        correct, seen = job.sum(np.array([int(counter.asnumpy()) for counter in counters], np.float32))
        return float(correct) / max(1.0, float(seen))

    def _record(self, step: int, epoch: int) -> None:
        loss = float(np.mean(self._losses)) if self._losses else math.nan
        accuracy = self._accuracy(self.job)
        rate = float(self.rates[step - 1])
        self.history.add(step, epoch, lr=rate, loss=loss, accuracy=accuracy)
        line = f"step {step}/{len(self.rates)}  epoch {epoch}  lr {rate:.3g}  {self._figures(loss, accuracy)}"
        if self.images_per_second:
            left = (len(self.rates) - step) * self.global_batch / self.images_per_second
            line += f"  {self.images_per_second:.0f} images/s  {tqdm.format_interval(left)} left"
        print(line, file=self.log, flush=True)
        if self._bar is None:
            print(line, file=self.terminal, flush=True)
        self._losses, self._recorded = [], step
        self.loss.restart()

    @staticmethod
    def _figures(loss: float, accuracy: float) -> str:
        return f"loss {loss:.4f}  accuracy {accuracy:.2%}"
