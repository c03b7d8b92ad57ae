"""What happens beside the training steps: records, progress, evaluation, the best checkpoint, and warnings."""

from __future__ import annotations

import csv
import math
import sys
import time
from typing import Callable, TextIO

import numpy as np
from mindspore import Model, Tensor, nn
from mindspore.dataset import Dataset
from mindspore.train import Callback
from tqdm import tqdm

from src.checkpoint import not_finite
from src.cli.errors import UserError
from src.devices.processes import Job, average_statistics
from src.inference.metrics import Evaluation
from src.loss import CrossEntropy

HISTORY_COLUMNS = ("step", "epoch", "lr", "loss", "accuracy", "val_loss", "val_accuracy", "seconds")
# A dead classifier gives logits of exactly 0, and so a loss of ln(classes) to the last float32 digits.
DEAD_TOLERANCE, DEAD_STEPS = 1e-5, 20
# A loss that has hardly moved from there by the end of the first epoch is worth a warning too.
STUCK_TOLERANCE = 0.01


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
    """Return the rows of History in a text of metrics.csv."""
    whole = {"step", "epoch"}
    return [
        {name: int(value) if name in whole else float(value) for name, value in row.items() if value}
        for row in csv.DictReader(text.splitlines())
    ]


class Steps(Callback):
    """The first of the callbacks: counts the steps, and gives the others the loss as `mean_loss`.

    step: steps done before; MindSpore counts from 0 in every call of Model.train.
    job: whose devices' mean loss it is.
    """

    def __init__(self, step: int, job: Job):
        super().__init__()
        self.step, self.job = step, job

    def on_train_begin(self, run_context):
        run_context.original_args().cur_step_num = self.step

    def on_train_step_end(self, run_context):
        cb = run_context.original_args()
        self.step = cb.cur_step_num
        # Where MindSpore scales the loss, it returns more than the loss.
        loss = cb.net_outputs[0] if isinstance(cb.net_outputs, (tuple, list)) else cb.net_outputs
        cb.mean_loss = float(self.job.mean(np.mean(loss.asnumpy())))


class NonFinite(Callback):
    """Ends a training whose loss, or at an epoch's end whose weights, are no longer finite, or undoes such steps.

    rates: learning rate of each step.
    skip: None to end, with UserError; or a function that says a line, to undo the step: all parameters, but for the
        counters of steps, get the last values that gave a finite loss, and the training goes on. (That is the values
        before the step before: it may be the one that broke them.) More than MAX_IN_A_ROW end it still.
    """

    MAX_IN_A_ROW = 20
    COUNTERS = ("global_step", ".step")

    def __init__(self, rates: np.ndarray, skip: Callable[[str], None] | None):
        super().__init__()
        self.rates, self.skip = rates, skip
        self.skipped = self._in_a_row = 0
        self._before: list[dict[str, np.ndarray]] = []

    def on_train_step_begin(self, run_context):
        if self.skip:
            network = run_context.original_args().train_network
            kept = [
                p
                for p in network.get_parameters()
                if not p.name.endswith(self.COUNTERS) and not p.name.startswith("learning_rate")
            ]
            self._before = [*self._before[-1:], {p.name: p.asnumpy().copy() for p in kept}]

    def on_train_step_end(self, run_context):
        cb = run_context.original_args()
        if math.isfinite(cb.mean_loss):
            self._in_a_row = 0
        else:
            self._leave_out(cb, f"the loss is {cb.mean_loss}", self._before[:1])

    def on_train_epoch_end(self, run_context):
        cb = run_context.original_args()
        name = not_finite(cb.train_network.trainable_params())
        if name:  # The last step did that; or an earlier one, and the last ReLU has hidden it from the loss.
            sound = [values for values in self._before[-1:] if all(np.isfinite(v).all() for v in values.values())]
            self._leave_out(cb, f"{name} is not finite", sound)

    def _leave_out(self, cb, what: str, before: list[dict[str, np.ndarray]]) -> None:
        """Undo a step, giving the parameters the values `before` it; without any, or too often, raise UserError."""
        step = cb.cur_step_num
        where = f"{what} at step {step} (epoch {cb.cur_epoch_num}, learning rate {self.rates[step - 1]:.3g})"
        self._in_a_row += 1
        if not before or self._in_a_row > self.MAX_IN_A_ROW:
            after = f", after {self._in_a_row - 1} others in a row" if self._in_a_row > 1 else ""
            raise UserError(
                f"{where}{after}: lower lr_max, lengthen warmup_epochs, or use batch_norm; the checkpoints saved "
                "before are good"
            )
        self.skipped += 1
        self.skip(f"warning: {where}: this step is left out ({self.skipped} so far)")
        for parameter in cb.train_network.get_parameters():
            if parameter.name in before[0]:
                parameter.set_data(Tensor(before[0][parameter.name]))
        self._before = before

    def state(self) -> dict:
        """Return what a resumed run needs."""
        return {"skipped": self.skipped}

    def restore(self, state: dict) -> None:
        """Go on from what `state` returned."""
        self.skipped = state["skipped"]


class Training(Callback):
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
        job: Job,
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
            figures = f"{self._figures(loss, self._accuracy(Job()))}  lr {self.rates[step - 1]:.3g}"
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

    def _accuracy(self, job: Job) -> float:
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


class Statistics(Callback):
    """Averages the batch norm statistics of a job's devices, before they are evaluated or saved.

    steps: steps between evaluations, or None.
    """

    def __init__(self, net: nn.Cell, job: Job, steps: int | None):
        super().__init__()
        self.net, self.job, self.steps = net, job, steps

    def on_train_step_end(self, run_context):
        if self.steps and run_context.original_args().cur_step_num % self.steps == 0:
            average_statistics(self.net, self.job)

    def on_train_epoch_end(self, run_context):
        average_statistics(self.net, self.job)


class Evaluator(Callback):
    """Evaluates on the validation images every epoch, or every `steps` steps and at the end, and reports each time.

    last_step: number of the training's last step.
    on_result(step, epoch, evaluation, is_best) is called after each.
    """

    def __init__(
        self,
        model: Model,
        dataset: Dataset,
        steps: int | None,
        last_step: int,
        on_result: Callable[[int, int, Evaluation, bool], None],
        dataset_sink: bool,
    ):
        super().__init__()
        self.model, self.dataset, self.steps, self.on_result = model, dataset, steps, on_result
        self.last_step, self.dataset_sink = last_step, dataset_sink
        self.seconds = 0.0
        self.best: dict | None = None  # The step and the summary of the first evaluation of the highest accuracy.
        self._evaluated_step = 0

    def state(self) -> dict:
        """Return what a resumed run needs."""
        return {"best": self.best, "evaluated_step": self._evaluated_step}

    def restore(self, state: dict) -> None:
        """Go on from what `state` returned."""
        self.best, self._evaluated_step = state["best"], state["evaluated_step"]

    def on_train_step_end(self, run_context):
        cb = run_context.original_args()
        if self.steps and cb.cur_step_num % self.steps == 0:
            self._evaluate(cb)

    def on_train_epoch_end(self, run_context):
        cb = run_context.original_args()
        due = self.steps is None or cb.cur_step_num == self.last_step
        if due and self._evaluated_step < cb.cur_step_num:
            self._evaluate(cb)

    def _evaluate(self, cb) -> None:
        start = time.perf_counter()
        evaluation = self.model.eval(self.dataset, dataset_sink_mode=self.dataset_sink)["evaluation"]
        cb.train_network.set_train(True)  # model.eval leaves the shared layers in evaluation mode.
        is_best = self.best is None or evaluation.accuracy > self.best["accuracy"]
        if is_best:
            self.best = {"step": cb.cur_step_num, **evaluation.summary()}
        self._evaluated_step = cb.cur_step_num
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
        self._epoch_losses: list[float] = []  # Of the first epoch, until it ends.
        self._said = False

    def state(self) -> dict:
        """Return what a resumed run needs."""
        return {"at_level": self._at_level, "epoch_losses": self._epoch_losses, "said": self._said}

    def restore(self, state: dict) -> None:
        """Go on from what `state` returned."""
        self._at_level, self._epoch_losses, self._said = state["at_level"], state["epoch_losses"], state["said"]

    def on_train_step_end(self, run_context):
        cb = run_context.original_args()
        loss = cb.mean_loss
        self._at_level = self._at_level + 1 if abs(loss - self.level) < DEAD_TOLERANCE else 0
        if cb.cur_epoch_num == 1:
            self._epoch_losses.append(loss)
        if self._at_level == DEAD_STEPS:
            self._warn(f"the network is dead: for {DEAD_STEPS} steps the loss has been exactly")

    def on_train_epoch_end(self, run_context):
        if self._epoch_losses:
            recent = self._epoch_losses[-max(1, len(self._epoch_losses) // 4) :]
            if abs(np.mean(recent) - self.level) < STUCK_TOLERANCE:
                self._warn("the network has not begun to learn: after the first epoch the loss is still")
            self._epoch_losses = []

    def _warn(self, what: str) -> None:
        if not self._said:
            self._said = True
            relu = "--final_relu false, " if self.final_relu else ""
            self.say(
                f"warning: {what} ln(classes) = {self.level:.4f}. What helps: {relu}--batch_norm squeeze, a lower "
                "--lr_max, more --warmup_epochs, another --seed"
            )
