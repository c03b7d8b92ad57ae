"""Training steps of a run: Model.train with its callbacks, and the files that they write."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any, Callable

import numpy as np
from mindspore.train import LossMonitor, TimeMonitor

from src.checkpoint import read_checkpoint, read_json, save_checkpoint
from src.cli.errors import UserError, first_line
from src.config import TrainConfig, decisive_keys
from src.dataset import evaluation_pipeline
from src.files.atomic import WriteError, open_growing, write_text
from src.files.bounded import read_text
from src.files.run_folder import make_folder
from src.inference.metrics import Evaluation
from src.loss import LOSSES
from src.network.input_layer import with_input_layer
from src.optimizers.averaging import averaged
from src.training.callbacks import BatchNormStatistics, DeadStartWarning, Evaluator, NonFinite, RunCallbacks
from src.training.checkpoints import Checkpoints
from src.training.dashboard import dashboard
from src.training.model import build_model
from src.training.plan import BEST, CHECKPOINTS, CURVES_PICTURE, LAST, LOG, METRICS, MINDSPORE_LOG, SCALARS, Plan
from src.training.progress import MAX_HISTORY_BYTES, History, ProgressLogger, read_history
from src.training.resume import GLOBAL_STEP, restore, stretches
from src.training.state import Parts, State, read_figures
from src.training.write_failures import Guarded, Writing

STEP_COUNTS = ("recorded", "evaluated_step")  # Step numbers in the states of callbacks.
EVALUATION_KEY = "evaluation"  # In best.ckpt: the step and metrics of its evaluation.


@dataclasses.dataclass
class Outcome:
    """Result of the training steps.

    best: step and metrics of the best evaluation on validation images, or None without them.
    images_per_second: of all devices together; without compilation and evaluation.
    skipped_steps: steps without an update because the loss scale overflowed.
    broken_images: number of unreadable images, which were left out.
    seconds: duration of the earlier starts.
    resumed_at_steps: first steps of the later starts.
    """

    best: dict | None
    images_per_second: float | None
    images_per_second_per_device: float | None
    skipped_steps: int
    broken_images: int
    seconds: float
    resumed_at_steps: list[int]


class Session:
    """One start of a run, from its first step or from a checkpoint.

    start: time.perf_counter() at the beginning of the program.
    """

    def __init__(self, plan: Plan, start: float):
        self.plan, self.start = plan, start
        self.former = plan.saved.state if plan.saved else None
        self.seconds_before = self.former.seconds if self.former else 0.0
        self.resumed_at = [*self.former.parts.resumed_at, plan.step] if self.former else []
        self.loss = LOSSES[plan.config.optimizer.loss](plan.config.optimizer.label_smoothing, plan.class_weights)
        net = with_input_layer(plan.net, plan.card.preprocessing)
        self.model = build_model(net, self.loss, plan.config.optimizer, plan.rates, plan.group)
        if plan.saved:
            restore(self.model.train_network, plan.saved, plan.group, plan.step)
        self.global_step = next(p for p in self.model.train_network.get_parameters() if p.name == GLOBAL_STEP)
        self.writing = Writing(plan.config.run.on_save_error == "stop", lambda line: self.progress.say(line))

    def run(self) -> Outcome:
        """Train to the last step. Writes log, scalars, checkpoints and curves to the run's folder."""
        plan = self.plan
        if plan.group.is_main_process:
            make_folder(plan.folder / CHECKPOINTS)
        with contextlib.ExitStack() as opened:
            printed = self._open_records(opened)
            callbacks = self._make_callbacks()
            if self.former:
                self._restore()
            with contextlib.redirect_stdout(printed):
                for steps, dataset in stretches(plan.step, len(plan.rates), plan.steps_per_epoch, plan.batches):
                    sink_size = plan.sink_size(dataset.get_dataset_size())
                    self.model.train(
                        steps // (sink_size or dataset.get_dataset_size()),
                        dataset,
                        callbacks=callbacks,
                        dataset_sink_mode=sink_size is not None,
                        sink_size=sink_size or -1,
                    )
        with self._weights():
            if plan.group.is_main_process:
                self._save_last()
        return Outcome(
            self.evaluator.best if self.evaluator else None,
            self.progress.images_per_second,
            self.progress.images_per_second and self.progress.images_per_second / plan.group.size,
            len(plan.rates) - int(self.global_step.asnumpy().item()),
            self._broken_images(),
            self.seconds_before,
            self.resumed_at,
        )

    def _open_records(self, opened: contextlib.ExitStack) -> Guarded:
        """Open logs, metrics.csv and scalars, continuing those of earlier starts.

        Returns the log of what MindSpore and its callbacks print, which would disrupt the progress bar.
        """
        plan, run = self.plan, self.plan.config.run

        def guarded(name: str, mode: str) -> Guarded:
            path = plan.folder / name if plan.group.is_main_process else Path(os.devnull)
            stream = Guarded(open_growing(path, mode), name, self.writing)
            opened.callback(stream.close)
            return stream

        log, printed = guarded(LOG, "a"), guarded(MINDSPORE_LOG, "a")
        former = None
        if self.former and plan.group.is_main_process:
            former = rows_until(plan.folder / METRICS, plan.saved.state.step, plan.counted)
        if former is not None:
            write_text(plan.folder / METRICS, former)  # At once: this start may be killed before its first row.
        kind = run.scalars if plan.group.is_main_process else "none"
        scalars = opened.enter_context(dashboard(kind, plan.folder / SCALARS, self.writing, plan.step))
        self.history = History(guarded(METRICS, "w" if former is None else "a"), self._seconds, scalars, former)
        self.progress = ProgressLogger(
            plan.rates,
            self.global_step,
            plan.steps_per_epoch,
            self.loss,
            self.history,
            run.log_steps,
            plan.config.data.batch_size * plan.group.size,
            log,
            sys.stdout,
            plan.group,
        )
        opened.callback(self.progress.close)
        return printed

    def _make_callbacks(self) -> list:
        plan, run, data = self.plan, self.plan.config.run, self.plan.config.data
        say = self.progress.say
        dead_start = DeadStartWarning(self.loss.untrained(len(plan.card.classes)), plan.config.model.final_relu, say)
        self.parts: dict[str, Any] = {"training": self.progress, "dead_start": dead_start}
        self.evaluator = None
        if plan.validation:
            images = evaluation_pipeline(
                plan.validation,
                plan.card.preprocessing,
                data.batch_size,
                data.num_workers,
                plan.group.size,
                plan.group.rank,
                data.max_broken_images,
                pad=True,
            )
            self.evaluator = Evaluator(self.model, images, run.eval_steps, len(plan.rates), self._on_evaluation)
            self.evaluator.weights = self._weights
            self.evaluator.announce = lambda: self.progress.phase(f"validating {len(plan.validation):,} images")
            self.progress.evaluator = self.parts["evaluator"] = self.evaluator
        checkpoints = Checkpoints(
            self.model.train_network,
            plan.folder / CHECKPOINTS,
            plan.card,
            plan.group,
            self._state,
            plan.steps_per_epoch,
            run.save_checkpoint_steps,
            run.save_checkpoint_minutes,
            run.keep_checkpoint_max,
            self.writing,
            plan.earlier,
        )
        inner = [
            NonFinite(plan.rates),
            self.progress,
            dead_start,
            TimeMonitor(plan.steps_per_epoch),
            LossMonitor(run.log_steps),
            BatchNormStatistics(plan.net, plan.group, run.eval_steps),
            *([self.evaluator] if self.evaluator else []),
            checkpoints,
        ]
        return [RunCallbacks(inner, plan.steps_per_epoch, plan.step, plan.group)]

    def _on_evaluation(self, step: int, epoch: int, evaluation: Evaluation, is_best: bool) -> None:
        self.history.add(step, epoch, val_loss=evaluation.loss, val_accuracy=evaluation.accuracy)
        if is_best and self.plan.group.is_main_process:
            best = self.plan.folder / BEST
            extra = {EVALUATION_KEY: self.evaluator.best}
            self.writing.attempt(BEST, lambda: save_checkpoint(self.plan.net, best, self.plan.card, **extra))
            self.writing.attempt(CURVES_PICTURE, self._draw_curves)
        figures = f"loss {evaluation.loss:.4f}  accuracy {evaluation.accuracy:.2%}"
        mark = "  (best so far)" if is_best else ""
        self.progress.say(f"validation at step {step}, epoch {epoch}: {figures}{mark}")

    def _draw_curves(self) -> None:
        from src import visualize  # Slow to import.

        plan = self.plan
        figure = visualize.learning_curves(self.history.rows, plan.rates, plan.steps_per_epoch, run_title(plan.config))
        visualize.save(figure, plan.folder / CURVES_PICTURE)

    def _state(self, step: int) -> State:
        plan, parts = self.plan, {name: part.state() for name, part in self.parts.items()}
        return State(
            step,
            plan.steps_per_epoch,
            plan.group.size,
            len(plan.training),
            self._seconds(),
            Parts(**parts, resumed_at=self.resumed_at),
            decisive_keys(plan.config),
        )

    def _weights(self) -> contextlib.AbstractContextManager:
        """Give the network the weights of the result in a `with` body: the averages, with ema_decay."""
        return averaged(self.model.train_network, self.plan.group)

    def _seconds(self) -> float:
        """Return the duration of the run in seconds, over all its starts."""
        return self.seconds_before + time.perf_counter() - self.start

    def _restore(self) -> None:
        plan = self.plan
        for name, part in self.parts.items():
            remembered = getattr(self.former.parts, name)
            if remembered is not None:
                values = dataclasses.asdict(remembered)
                part.restore({k: plan.counted(value) if k in STEP_COUNTS else value for k, value in values.items()})
        if self.evaluator:
            self._adopt_best()
        self.progress.say(f"resumed at step {plan.step}")

    def _adopt_best(self) -> None:
        """Keep a best.ckpt that is newer than the checkpoint: its accuracy was reached, by steps now repeated."""
        plan = self.plan
        if not plan.group.sum(np.float32(plan.group.is_main_process and (plan.folder / BEST).is_file())):
            self.evaluator.best = None
            return
        try:
            best = read_figures(read_json(read_checkpoint(plan.group.file(plan.folder / BEST)), EVALUATION_KEY))
        except (UserError, KeyError, ValueError) as error:
            self.progress.say(f"warning: {BEST} cannot be read ({error}): the next evaluation will replace it")
            self.evaluator.best = None
            return
        if self.evaluator.best is None or best["accuracy"] > self.evaluator.best["accuracy"]:
            self.evaluator.best = best

    def _save_last(self) -> None:
        folder = self.plan.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save_checkpoint(self.plan.net, folder / LAST, self.plan.card)
            self._draw_curves()
        except (OSError, WriteError) as error:
            raise UserError(
                f"{folder}: the trained network cannot be written ({first_line(error)}); make room, and run again with "
                "--resume"
            ) from None

    def _broken_images(self) -> int:
        """Return the number of training images left out on any device."""
        broken = np.zeros(len(self.plan.training), np.float32)
        broken[list(self.plan.training.broken)] = 1
        return int((self.plan.group.sum(broken) > 0).sum())


def run_title(config: TrainConfig) -> str:
    """Return the title of a run's curves: the network, the data set, and why training figures are not comparable."""
    smoothing = config.optimizer.label_smoothing
    training = ["augmented images"] if config.data.augment != "none" else []
    training += [f"loss with label smoothing {smoothing:g}"] if smoothing else []
    title = f"SqueezeNet {config.model.version} on {config.data.dataset}, run {Path(config.run.output_path).name}"
    return title + (f" (training: {', '.join(training)})" if training else "")


def rows_until(file: Path, step: int, counted: Callable[[int], int]) -> str | None:
    """Return the text of a metrics.csv up to a step, with converted step numbers, or None without any.

    Raises UserError for a damaged file.
    """
    if not file.is_file():
        return None
    advice = "remove it to go on without the figures so far"
    lines = read_text(file, MAX_HISTORY_BYTES, advice).splitlines(keepends=True)
    # A line that a power failure cut short has no end.
    head, *rows = [line for line in lines if line.endswith("\n")] or [""]
    try:
        cells = [row.split(",", 1) for row in rows]
        text = head + "".join(f"{counted(int(first))},{rest}" for first, rest in cells if int(first) <= step)
        read_history(text)
    except (ValueError, OverflowError):
        raise UserError(f"{file}: damaged; {advice}") from None
    return text or None
