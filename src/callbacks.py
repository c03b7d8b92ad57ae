"""What happens beside the training steps: records, progress, evaluation, the best checkpoint, and warnings."""

from __future__ import annotations

import csv
import math
import sys
import time
from typing import Callable, TextIO

import numpy as np
from mindspore import Model
from mindspore.dataset import Dataset
from mindspore.train import Callback
from tqdm import tqdm

from src.errors import UserError
from src.loss import CrossEntropy
from src.metrics import Evaluation

HISTORY_COLUMNS = ("step", "epoch", "lr", "loss", "accuracy", "val_loss", "val_accuracy")
# A dead classifier gives logits of exactly 0, and so a loss of ln(classes) to the last float32 digits.
DEAD_TOLERANCE, DEAD_STEPS = 1e-5, 20
# A loss that has hardly moved from there by the end of the first epoch is worth a warning too.
STUCK_TOLERANCE = 0.01


class History:
    """The rows of metrics.csv, written as they come, and the same figures for a dashboard.

    Each row has step, epoch, and either lr, loss and accuracy of the training steps since the row before, or val_loss
    and val_accuracy.
    """

    def __init__(self, stream: TextIO, dashboard: Callable[[str, float, int], None] | None = None):
        self.rows: list[dict] = []
        self._dashboard = dashboard
        self._stream = stream
        self._writer = csv.DictWriter(stream, HISTORY_COLUMNS)
        self._writer.writeheader()

    def add(self, step: int, epoch: int, **figures: float) -> None:
        """Add a row. `figures` are those of HISTORY_COLUMNS."""
        self.rows.append({"step": step, "epoch": epoch, **figures})
        self._writer.writerow(self.rows[-1])
        self._stream.flush()
        if self._dashboard:
            for name, value in figures.items():
                tag = f"val/{name[4:]}" if name.startswith("val_") else f"train/{name}"
                self._dashboard(tag, value, step)


class Training(Callback):
    """Follows the steps: a progress bar on a terminal, lines elsewhere and in the log, a row of History.

    rates: learning rate of each step.
    loss: the training loss cell, which counts images seen and recognised.
    log_steps: steps between rows and lines.
    evaluator: the callback whose time does not count as training, or None.
    log, terminal: where lines go; to a terminal that shows a bar only those that are said.

    Raises UserError when the loss is no longer finite.
    """

    def __init__(
        self,
        rates: np.ndarray,
        loss: CrossEntropy,
        history: History,
        log_steps: int,
        batch_size: int,
        log: TextIO,
        terminal: TextIO,
        evaluator: Evaluator | None,
    ):
        super().__init__()
        self.rates, self.loss, self.history, self.log_steps = rates, loss, history, log_steps
        self.batch_size, self.log, self.terminal, self.evaluator = batch_size, log, terminal, evaluator
        self.images_per_second: float | None = None
        self._counts = (0, 0)
        self._losses: list[float] = []
        self._recorded = 0
        self._first_step_end: tuple[int, float] | None = None
        self._bar: tqdm | None = None

    def on_train_begin(self, run_context):
        if sys.stderr.isatty():
            self._bar = tqdm(total=len(self.rates), unit="step", dynamic_ncols=True)

    def on_train_step_end(self, run_context):
        cb = run_context.original_args()
        step, epoch = cb.cur_step_num, cb.cur_epoch_num
        loss = float(np.mean(cb.net_outputs.asnumpy()))
        if not math.isfinite(loss):
            raise UserError(
                f"the loss is {loss} at step {step} (epoch {epoch}, learning rate {self.rates[step - 1]:.3g}): lower "
                "lr_max, lengthen warmup_epochs, or use batch_norm; the checkpoints saved before are good"
            )
        self._losses.append(loss)
        self._measure(step)
        if self._bar is not None:
            self._bar.set_description(f"epoch {epoch}/{cb.epoch_num}", refresh=False)
            figures = f"{self._figures(loss, self._accuracy())}  lr {self.rates[step - 1]:.3g}"
            self._bar.set_postfix_str(figures, refresh=False)
            self._bar.update(step - self._bar.n)
        # In sink mode a call comes once an epoch only.
        if step // self.log_steps > self._recorded // self.log_steps:
            self._record(step, epoch)

    def on_train_epoch_end(self, run_context):
        cb = run_context.original_args()
        if cb.cur_step_num > self._recorded:
            self._record(cb.cur_step_num, cb.cur_epoch_num)

    def on_train_end(self, run_context):
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
            self.images_per_second = steps * self.batch_size / (now - self._first_step_end[1])

    def _accuracy(self) -> float:
        correct, seen = (int(counter.asnumpy()) for counter in (self.loss.correct, self.loss.seen))
        return (correct - self._counts[0]) / max(1, seen - self._counts[1])

    def _record(self, step: int, epoch: int) -> None:
        loss, accuracy = float(np.mean(self._losses)), self._accuracy()
        rate = float(self.rates[step - 1])
        self.history.add(step, epoch, lr=rate, loss=loss, accuracy=accuracy)
        line = f"step {step}/{len(self.rates)}  epoch {epoch}  lr {rate:.3g}  {self._figures(loss, accuracy)}"
        if self.images_per_second:
            left = (len(self.rates) - step) * self.batch_size / self.images_per_second
            line += f"  {self.images_per_second:.0f} images/s  {tqdm.format_interval(left)} left"
        print(line, file=self.log, flush=True)
        if self._bar is None:
            print(line, file=self.terminal, flush=True)
        self._losses, self._recorded = [], step
        self._counts = (int(self.loss.correct.asnumpy()), int(self.loss.seen.asnumpy()))

    @staticmethod
    def _figures(loss: float, accuracy: float) -> str:
        return f"loss {loss:.4f}  accuracy {accuracy:.2%}"


class Evaluator(Callback):
    """Evaluates on the validation images every epoch, or every `steps` steps, and reports each improvement.

    on_result(step, epoch, evaluation, is_best) is called after each.
    """

    def __init__(
        self,
        model: Model,
        dataset: Dataset,
        steps: int | None,
        on_result: Callable[[int, int, Evaluation, bool], None],
        dataset_sink: bool,
    ):
        super().__init__()
        self.model, self.dataset, self.steps, self.on_result = model, dataset, steps, on_result
        self.dataset_sink = dataset_sink
        self.seconds = 0.0
        self.best: tuple[int, Evaluation] | None = None
        self._last_step = 0

    def on_train_step_end(self, run_context):
        cb = run_context.original_args()
        if self.steps and cb.cur_step_num % self.steps == 0:
            self._evaluate(cb)

    def on_train_epoch_end(self, run_context):
        cb = run_context.original_args()
        last = cb.cur_epoch_num == cb.epoch_num
        if (self.steps is None or last) and self._last_step < cb.cur_step_num:
            self._evaluate(cb)

    def _evaluate(self, cb) -> None:
        start = time.perf_counter()
        evaluation = self.model.eval(self.dataset, dataset_sink_mode=self.dataset_sink)["evaluation"]
        cb.train_network.set_train(True)  # model.eval leaves the shared layers in evaluation mode.
        is_best = self.best is None or evaluation.accuracy > self.best[1].accuracy
        if is_best:
            self.best = (cb.cur_step_num, evaluation)
        self._last_step = cb.cur_step_num
        self.on_result(cb.cur_step_num, cb.cur_epoch_num, evaluation, is_best)
        self.seconds += time.perf_counter() - start


class DeadStartWarning(Callback):
    """Says so when a net does not start to learn: its loss stays at ln(classes).

    This is the most frequent complaint about SqueezeNet: the ReLU after its last convolution dies, every logit is 0
    and so is every gradient.
    """

    def __init__(self, num_classes: int, final_relu: bool, say: Callable[[str], None]):
        super().__init__()
        self.level, self.final_relu, self.say = math.log(num_classes), final_relu, say
        self._at_level = 0
        self._epoch_losses: list[float] = []
        self._said = False

    def on_train_step_end(self, run_context):
        cb = run_context.original_args()
        loss = float(np.mean(cb.net_outputs.asnumpy()))
        self._at_level = self._at_level + 1 if abs(loss - self.level) < DEAD_TOLERANCE else 0
        if cb.cur_epoch_num == 1:
            self._epoch_losses.append(loss)
        if self._at_level == DEAD_STEPS:
            self._warn(f"the network is dead: for {DEAD_STEPS} steps the loss has been exactly")

    def on_train_epoch_end(self, run_context):
        if run_context.original_args().cur_epoch_num == 1:
            recent = self._epoch_losses[-max(1, len(self._epoch_losses) // 4) :]
            if abs(np.mean(recent) - self.level) < STUCK_TOLERANCE:
                self._warn("the network has not begun to learn: after the first epoch the loss is still")

    def _warn(self, what: str) -> None:
        if not self._said:
            self._said = True
            relu = "--final_relu false, " if self.final_relu else ""
            self.say(
                f"warning: {what} ln(classes) = {self.level:.4f}. What helps: {relu}--batch_norm squeeze, a lower "
                "--lr_max, more --warmup_epochs, another --seed"
            )
