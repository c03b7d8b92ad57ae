"""Callbacks of a run: step counting, evaluation, batch norm statistics, and checks for diverged or dead training."""

from __future__ import annotations

import contextlib
import math
import time
from typing import Callable, Sequence

import numpy as np
from mindspore import Model, nn
from mindspore.dataset import Dataset
from mindspore.train import Callback

from src.checkpoint import not_finite
from src.cli import signals
from src.cli.errors import UserError
from src.devices.processes import ProcessGroup, average_statistics
from src.inference.metrics import Evaluation
from src.training.state import DeadStartState, EvaluatorState

# A dead classifier gives logits of exactly 0, and so their loss to the last float32 digits.
DEAD_TOLERANCE, DEAD_STEPS = 1e-5, 20
# A loss that has hardly moved from there by the end of the first epoch is worth a warning too.
STUCK_TOLERANCE = 0.01


class RunCallbacks(Callback):
    """Dispatcher that gives a run's callbacks the step and epoch numbers of the whole run.

    MindSpore counts from 0 in every call of Model.train, and with dataset sinking counts each call as an epoch. The
    callbacks see `cur_step_num` and `cur_epoch_num` of the run, `steps_taken` since the previous call, and `mean_loss`,
    the last step's loss averaged over the process group; their epochs are those of the run.

    step: steps done before.
    """

    def __init__(self, callbacks: Sequence[Callback], steps_per_epoch: int, step: int, group: ProcessGroup):
        super().__init__()
        self.callbacks, self.steps_per_epoch, self.step, self.group = callbacks, steps_per_epoch, step, group

    def on_train_begin(self, run_context):
        run_context.original_args().cur_step_num = self.step
        self._call("on_train_begin", run_context)

    def on_train_epoch_begin(self, run_context):
        cb = run_context.original_args()
        cb.cur_epoch_num = self.step // self.steps_per_epoch + 1
        if self.step % self.steps_per_epoch == 0:
            self._call("on_train_epoch_begin", run_context)

    def on_train_step_begin(self, run_context):
        signals.block()  # A library may have unblocked them since the last step.
        self._call("on_train_step_begin", run_context)

    def on_train_step_end(self, run_context):
        cb = run_context.original_args()
        cb.steps_taken, self.step = cb.cur_step_num - self.step, cb.cur_step_num
        # With a loss scale, MindSpore returns further outputs.
        loss = cb.net_outputs[0] if isinstance(cb.net_outputs, (tuple, list)) else cb.net_outputs
        cb.mean_loss = float(self.group.mean(np.mean(loss.asnumpy())))
        self._call("on_train_step_end", run_context)

    def on_train_epoch_end(self, run_context):
        if self.step % self.steps_per_epoch == 0:
            self._call("on_train_epoch_end", run_context)

    def on_train_end(self, run_context):
        self._call("on_train_end", run_context)

    def _call(self, hook: str, run_context) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(run_context)


def passed_multiple(cb, steps: int | None) -> bool:
    """Return whether a multiple of `steps` was passed since the last call; False for None."""
    return bool(steps) and cb.cur_step_num // steps > (cb.cur_step_num - cb.steps_taken) // steps


class NonFinite(Callback):
    """Callback that ends a training with UserError when its loss, or at an epoch's end a weight, is not finite.

    rates: learning rate of each step.
    """

    def __init__(self, rates: np.ndarray):
        super().__init__()
        self.rates = rates

    def on_train_step_end(self, run_context):
        cb = run_context.original_args()
        if not math.isfinite(cb.mean_loss):
            self._end(cb, f"the loss is {cb.mean_loss}")

    def on_train_epoch_end(self, run_context):
        cb = run_context.original_args()
        name = not_finite(cb.train_network.trainable_params())
        if name:  # The last ReLU can hide NaN from the loss.
            self._end(cb, f"{name} is not finite")

    def _end(self, cb, finding: str) -> None:
        step, taken = cb.cur_step_num, cb.steps_taken
        where = f"step {step}" if taken == 1 else f"one of the steps {step - taken + 1} to {step}"
        raise UserError(
            f"{finding} at {where} (epoch {cb.cur_epoch_num}, learning rate {self.rates[step - 1]:.3g}): lower lr_max, "
            "lengthen warmup_epochs, or use batch_norm; earlier checkpoints are intact"
        )


class BatchNormStatistics(Callback):
    """Callback that averages batch norm statistics over the process group before evaluating or saving.

    steps: steps between evaluations, or None.
    """

    def __init__(self, net: nn.Cell, group: ProcessGroup, steps: int | None):
        super().__init__()
        self.net, self.group, self.steps = net, group, steps

    def on_train_step_end(self, run_context):
        if passed_multiple(run_context.original_args(), self.steps):
            average_statistics(self.net, self.group)

    def on_train_epoch_end(self, run_context):
        average_statistics(self.net, self.group)


class Evaluator(Callback):
    """Callback that evaluates the network on the validation images.

    steps: steps between evaluations, with a last one at the end; None: one per epoch.
    last_step: number of the training's last step.
    on_result: called with (step, epoch, evaluation, is_best) after each evaluation.
    """

    def __init__(
        self,
        model: Model,
        dataset: Dataset,
        steps: int | None,
        last_step: int,
        on_result: Callable[[int, int, Evaluation, bool], None],
    ):
        super().__init__()
        self.model, self.dataset, self.steps, self.on_result = model, dataset, steps, on_result
        self.last_step = last_step
        self.seconds = 0.0
        # Gives the network the weights to evaluate and to save.
        self.weights: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
        self.announce: Callable[[], None] = lambda: None  # Called when an evaluation begins.
        self.best: dict | None = None  # The step and the summary of the first evaluation of the highest accuracy.
        self._evaluated_step = 0

    def state(self) -> EvaluatorState:
        """Return the state for a checkpoint."""
        return EvaluatorState(self.best, self._evaluated_step)

    def restore(self, state: dict) -> None:
        """Restore the state from a checkpoint."""
        self.best, self._evaluated_step = state["best"], state["evaluated_step"]

    def on_train_step_end(self, run_context):
        cb = run_context.original_args()
        if passed_multiple(cb, self.steps):
            self._evaluate(cb)

    def on_train_epoch_end(self, run_context):
        cb = run_context.original_args()
        due = self.steps is None or cb.cur_step_num == self.last_step
        if due and self._evaluated_step < cb.cur_step_num:
            self._evaluate(cb)

    def _evaluate(self, cb) -> None:
        start = time.perf_counter()
        self.announce()
        with self.weights():
            evaluation = self.model.eval(self.dataset, dataset_sink_mode=False)["evaluation"]
            cb.train_network.set_train(True)  # model.eval leaves the shared layers in evaluation mode.
            is_best = self.best is None or evaluation.accuracy > self.best["accuracy"]
            if is_best:
                self.best = {"step": cb.cur_step_num, **evaluation.summary()}
            self._evaluated_step = cb.cur_step_num
            self.on_result(cb.cur_step_num, cb.cur_epoch_num, evaluation, is_best)
        self.seconds += time.perf_counter() - start


class DeadStartWarning(Callback):
    """Callback that warns when the loss stays at that of zero logits, such as ln(classes).

    level: the loss of zero logits.

    The most frequent complaint about SqueezeNet: the ReLU after its last convolution dies, and every logit and every
    gradient is 0.
    """

    def __init__(self, level: float, final_relu: bool, say: Callable[[str], None]):
        super().__init__()
        self.level, self.final_relu, self.say = level, final_relu, say
        self._at_level = 0
        self._epoch_losses: list[float] = []  # Of the first epoch, or of as many as have DEAD_STEPS steps.
        self._said = False

    def state(self) -> DeadStartState:
        """Return the state for a checkpoint."""
        return DeadStartState(self._at_level, self._epoch_losses, self._said)

    def restore(self, state: dict) -> None:
        """Restore the state from a checkpoint."""
        self._at_level, self._epoch_losses, self._said = state["at_level"], state["epoch_losses"], state["said"]

    def on_train_step_end(self, run_context):
        cb = run_context.original_args()
        loss = cb.mean_loss
        # The first loss at this level does not tell about the steps before.
        taken = cb.steps_taken if self._at_level else 1
        self._at_level = self._at_level + taken if abs(loss - self.level) < DEAD_TOLERANCE else 0
        if cb.cur_epoch_num == 1 or self._epoch_losses:
            self._epoch_losses.append(loss)
        if self._at_level >= DEAD_STEPS:
            self._warn(f"the network is dead: for {self._at_level} steps the loss has been exactly")

    def on_train_epoch_end(self, run_context):
        cb = run_context.original_args()
        if self._epoch_losses and cb.cur_step_num >= DEAD_STEPS:
            recent = self._epoch_losses[-max(1, len(self._epoch_losses) // 4) :]
            if abs(np.mean(recent) - self.level) < STUCK_TOLERANCE:
                self._warn(f"the network has not begun to learn: after epoch {cb.cur_epoch_num} the loss is still")
            self._epoch_losses = []

    def _warn(self, what: str) -> None:
        if not self._said:
            self._said = True
            relu = "--final_relu false, " if self.final_relu else ""
            self.say(
                f"warning: {what} {self.level:.4f}, that of zero logits. Try {relu}--batch_norm squeeze, a lower "
                "--lr_max, more --warmup_epochs or another --seed"
            )
