"""What happens beside the training steps: records, progress, evaluation, the best checkpoint, and warnings."""

from __future__ import annotations

import math
import time
from typing import Callable

import numpy as np
from mindspore import Model, Tensor, nn
from mindspore.dataset import Dataset
from mindspore.train import Callback

from src.checkpoint import not_finite
from src.cli.errors import UserError
from src.devices.processes import ProcessGroup, average_statistics
from src.inference.metrics import Evaluation

# A dead classifier gives logits of exactly 0, and so a loss of ln(classes) to the last float32 digits.
DEAD_TOLERANCE, DEAD_STEPS = 1e-5, 20
# A loss that has hardly moved from there by the end of the first epoch is worth a warning too.
STUCK_TOLERANCE = 0.01


class StepCounter(Callback):
    """The first of the callbacks: counts the steps, and gives the others the loss as `mean_loss`.

    step: steps done before; MindSpore counts from 0 in every call of Model.train.
    job: whose devices' mean loss it is.
    """

    def __init__(self, step: int, job: ProcessGroup):
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


class BatchNormStatistics(Callback):
    """Averages the batch norm statistics of a job's devices, before they are evaluated or saved.

    steps: steps between evaluations, or None.
    """

    def __init__(self, net: nn.Cell, job: ProcessGroup, steps: int | None):
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
