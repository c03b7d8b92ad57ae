from __future__ import annotations

import csv
import io
import math
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor
from mindspore.train import Callback

from src.cli.errors import UserError
from src.devices.processes import ProcessGroup
from src.training import progress
from src.training.callbacks import DEAD_STEPS, DeadStartWarning, Evaluator, NonFinite, RunCallbacks, passed_multiple
from src.training.progress import HISTORY_COLUMNS, History, ProgressLogger

LN_10 = math.log(10)


def context(step: int, epoch: int = 1, loss: float = 1.0, epochs: int = 3, taken: int = 1) -> SimpleNamespace:
    """Return the context of a callback after `taken` steps."""
    modes = []
    train_network = SimpleNamespace(set_train=modes.append, modes=modes)
    values = SimpleNamespace(
        cur_step_num=step,
        steps_taken=taken,
        cur_epoch_num=epoch,
        epoch_num=epochs,
        net_outputs=Tensor(loss, ms.float32),
        mean_loss=float(loss),
        train_network=train_network,
    )
    return SimpleNamespace(original_args=lambda: values)


def test_history_writes_each_row_at_once_as_csv_and_to_the_dashboard():
    stream, seen = io.StringIO(), []
    history = History(stream, iter([1.5, 2.003]).__next__, lambda *scalar: seen.append(scalar))
    history.add(5, 1, lr=0.5, loss=2.0, accuracy=0.25)
    history.add(6, 2, val_loss=1.0, val_accuracy=0.5)
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert tuple(rows[0]) == HISTORY_COLUMNS
    assert [value for value in rows[0].values() if value] == ["5", "1", "0.5", "2.0", "0.25", "1.5"]
    assert (rows[1]["lr"], rows[1]["val_loss"], rows[1]["val_accuracy"], rows[1]["seconds"]) == (
        "",
        "1.0",
        "0.5",
        "2.0",
    )
    assert seen == [
        ("train/lr", 0.5, 5),
        ("train/loss", 2.0, 5),
        ("train/accuracy", 0.25, 5),
        ("val/loss", 1.0, 6),
        ("val/accuracy", 0.5, 6),
    ]


def test_history_rows_are_on_disk_before_the_run_ends(tmp_path):
    with open(tmp_path / "metrics.csv", "w", newline="") as stream:
        History(stream, float).add(1, 1, loss=3.0)
        assert (tmp_path / "metrics.csv").read_text().splitlines()[1].startswith("1,1,")


def test_history_goes_on_with_the_columns_that_it_was_begun_with():
    former = "step,epoch,loss\n5,1,2.0\n"
    stream = io.StringIO()
    stream.write(former)
    history = History(stream, float, former=former)
    history.add(6, 2, loss=1.0, accuracy=0.5)
    assert stream.getvalue().split() == ["step,epoch,loss", "5,1,2.0", "6,2,1.0"]
    assert history.rows[0] == {"step": 5, "epoch": 1, "loss": 2.0} and history.rows[1]["accuracy"] == 0.5


class Counters:
    """The sums of a training loss, set by hand."""

    def __init__(self):
        self.set(0, 0, 0.0)

    def set(self, correct: int, seen: int, loss_sum: float):
        self.correct, self.seen = Tensor(correct, ms.int32), Tensor(seen, ms.int32)
        self.loss_sum = Tensor(loss_sum, ms.float32)

    def restart(self):
        self.set(0, 0, 0.0)


@pytest.fixture
def training():
    """A Training callback of 6 steps in 2 epochs, with a row every 2 steps; its counters, log and terminal."""
    counters, history = Counters(), History(io.StringIO(), float)
    log, terminal = io.StringIO(), io.StringIO()
    rates = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], np.float32)
    updates = Parameter(Tensor([0], ms.int32), name="global_step")
    callback = ProgressLogger(rates, updates, 3, counters, history, 2, 8, log, terminal, ProcessGroup())

    def step(number: int, epoch: int = 1, loss: float = 1.0, taken: int = 1):
        updates.set_data(Tensor([number], ms.int32))
        callback.on_train_step_end(context(number, epoch, loss, taken=taken))

    return SimpleNamespace(
        callback=callback, step=step, updates=updates, counters=counters, history=history, log=log, terminal=terminal
    )


def test_training_rows_hold_the_mean_loss_and_accuracy_since_the_row_before(training):
    for step, (loss_sum, right, seen) in enumerate([(32, 1, 8), (48, 3, 16), (8, 8, 8), (18, 17, 24)], 1):
        training.counters.set(right, seen, loss_sum)
        training.step(step)
    assert [row["step"] for row in training.history.rows] == [2, 4]
    assert [row["loss"] for row in training.history.rows] == [3, 0.75]
    assert [row["accuracy"] for row in training.history.rows] == pytest.approx([3 / 16, 17 / 24])
    assert [row["lr"] for row in training.history.rows] == pytest.approx([0.2, 0.4])


def test_training_makes_a_row_at_the_end_of_an_epoch_unless_there_is_one(training):
    for step in (1, 2, 3):
        training.step(step)
    training.callback.on_train_epoch_end(context(3))
    training.step(4, 2)
    training.callback.on_train_epoch_end(context(4, 2))
    assert [row["step"] for row in training.history.rows] == [2, 3, 4]


def test_training_that_is_fed_epochs_makes_one_row_an_epoch(training):
    for step, epoch in ((3, 1), (6, 2)):
        training.step(step, epoch, taken=3)
        training.callback.on_train_epoch_end(context(step, epoch))
    assert [(row["step"], row["epoch"]) for row in training.history.rows] == [(3, 1), (6, 2)]


def test_training_lines_go_to_the_log_and_the_terminal_alike(training):
    training.step(1)
    training.counters.set(4, 16, 48.0)
    training.step(2)
    lines = training.log.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 1/6", "step 2/6"]  # The first tells that it runs.
    assert lines[1].startswith("step 2/6  epoch 1  lr 0.2  loss 3.0000  accuracy 25.00%")
    assert training.terminal.getvalue() == training.log.getvalue()


def test_on_a_terminal_a_bar_shows_the_figures_and_only_what_is_said_becomes_a_line(training, monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", screen)
    training.callback.on_train_begin(context(0))
    for step in (1, 2, 3):
        training.step(step, 1, 2.5)
    training.callback.say("something new")
    training.callback.close()
    assert "3/6" in screen.getvalue() and "epoch 1/2" in screen.getvalue() and "loss 2.500" in screen.getvalue()
    assert training.terminal.getvalue().splitlines()[1:] == ["something new"]
    assert "step 2/6" in training.log.getvalue() and "something new" in training.log.getvalue()


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_with_step_epoch_and_learning_rate(loss):
    callback = NonFinite(np.array([0.1, 0.2]))
    callback.on_train_step_end(context(1))
    with pytest.raises(UserError, match=rf"the loss is {loss} at step 2 \(epoch 1, learning rate 0.2\)"):
        callback.on_train_step_end(context(2, 1, loss))
    with pytest.raises(UserError, match=rf"the loss is {loss} at one of the steps 1 to 2 \("):
        callback.on_train_step_end(context(2, 1, loss, taken=2))


def test_images_per_second_leaves_out_the_first_step_and_the_evaluations(training, monkeypatch):
    clock = iter([100.0, 101.0, 114.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    training.callback.evaluator = evaluator = SimpleNamespace(seconds=0.0)
    training.step(1)
    assert training.callback.images_per_second is None
    training.step(2)
    evaluator.seconds = 10.0
    training.step(3)
    assert training.callback.images_per_second == pytest.approx(2 * 8 / 4)


class Validation:
    """An Evaluator over validation accuracies given by hand, and the results it reported."""

    def __init__(self, accuracies: list[float], steps: int | None):
        outcomes = iter(accuracies)

        def evaluation(dataset, dataset_sink_mode):
            accuracy = next(outcomes)
            return {"evaluation": SimpleNamespace(accuracy=accuracy, summary=lambda: {"accuracy": accuracy})}

        self.results = []
        self.callback = Evaluator(SimpleNamespace(eval=evaluation), None, steps, 12, self._note)

    def _note(self, step, epoch, evaluation, is_best):
        self.results.append((step, epoch, evaluation.accuracy, is_best))

    def run(self, epochs: int, steps_per_epoch: int) -> list:
        for epoch in range(1, epochs + 1):
            for i in range(steps_per_epoch):
                step = (epoch - 1) * steps_per_epoch + i + 1
                self.callback.on_train_step_end(context(step, epoch, epochs=epochs))
            self.callback.on_train_epoch_end(context(step, epoch, epochs=epochs))
        return self.results


def test_evaluator_reports_only_strict_improvements_as_best_and_keeps_the_first_of_equals():
    validation = Validation([0.5, 0.4, 0.5, 0.6], None)
    assert [result[3] for result in validation.run(4, 5)] == [True, False, False, True]
    assert validation.callback.best == {"step": 20, "accuracy": 0.6}


def test_evaluator_works_every_epoch_by_default():
    assert [result[:2] for result in Validation([0.5] * 3, None).run(3, 4)] == [(4, 1), (8, 2), (12, 3)]


def test_evaluator_with_eval_steps_works_every_so_many_steps_and_once_at_the_end():
    assert [result[:2] for result in Validation([0.5] * 3, 5).run(3, 4)] == [(5, 2), (10, 3), (12, 3)]
    assert [result[:2] for result in Validation([0.5] * 3, 4).run(3, 4)] == [(4, 1), (8, 2), (12, 3)]


def test_evaluator_puts_the_network_back_into_training():
    validation, at = Validation([0.5], 1), context(1, epochs=2)
    validation.callback.on_train_step_end(at)
    assert at.original_args().train_network.modes == [True]


def feed(warning: DeadStartWarning, losses: list[float], epoch: int = 1, end: bool = True) -> None:
    for step, loss in enumerate(losses, 1):
        warning.on_train_step_end(context(step, epoch, loss))
    if end:
        warning.on_train_epoch_end(context(len(losses), epoch))


@pytest.fixture
def said():
    return []


def test_a_dead_net_is_named_within_twenty_steps_and_once(said):
    warning = DeadStartWarning(LN_10, True, said.append)
    feed(warning, [2.5] + [LN_10] * (DEAD_STEPS - 1), end=False)
    assert DEAD_STEPS <= 20 and said == []
    feed(warning, [LN_10] * 30)
    assert len(said) == 1 and "the network is dead" in said[0] and "2.3026" in said[0]
    assert "--final_relu false" in said[0] and "--warmup_epochs" in said[0] and "--lr_max" in said[0]


def test_a_net_that_dies_in_a_later_epoch_is_named_too(said):
    warning = DeadStartWarning(LN_10, True, said.append)
    feed(warning, [2.0, 1.0])
    feed(warning, [LN_10] * 20, epoch=2)
    assert len(said) == 1 and "is dead" in said[0]


def test_a_loss_that_touches_the_level_now_and_then_is_not_dead(said):
    feed(DeadStartWarning(LN_10, True, said.append), ([LN_10] * 19 + [1.5]) * 3 + [1.0] * 60)
    assert said == []


def test_a_net_that_has_not_moved_by_the_end_of_the_first_epoch_is_named(said):
    feed(DeadStartWarning(LN_10, True, said.append), [LN_10 + 0.004 * (-1) ** i for i in range(40)])
    assert len(said) == 1 and "has not begun to learn" in said[0]


def test_a_first_epoch_of_a_few_steps_is_too_short_to_judge(said):
    warning = DeadStartWarning(LN_10, True, said.append)
    feed(warning, [LN_10 + 0.004] * 7)
    for epoch in (2, 3):
        for step in range(1, 8):
            warning.on_train_step_end(context(7 * epoch - 7 + step, epoch, LN_10 + 0.004))
        warning.on_train_epoch_end(context(7 * epoch, epoch))
        assert len(said) == (epoch == 3)
    assert "after epoch 3 the loss is still 2.3026" in said[0]


def test_a_net_that_learns_is_left_in_peace(said):
    warning = DeadStartWarning(LN_10, True, said.append)
    feed(warning, list(np.linspace(LN_10, 2.2, 100)))
    feed(warning, list(np.linspace(2.2, 1.5, 100)), epoch=2)
    assert said == []


def test_a_level_reached_by_a_later_epochs_end_is_not_a_bad_start(said):
    warning = DeadStartWarning(LN_10, True, said.append)
    feed(warning, [2.0] * 10)
    feed(warning, [LN_10 + 0.003] * 10, epoch=2)
    assert said == []


def test_the_level_is_that_of_the_class_count_and_the_relu_is_only_blamed_where_there_is_one(said):
    feed(DeadStartWarning(math.log(100), False, said.append), [math.log(100)] * 20)
    assert len(said) == 1 and "4.6052" in said[0] and "final_relu" not in said[0]


def test_a_learning_rate_is_that_of_the_last_update_when_a_loss_scale_left_steps_out(training):
    training.step(1)
    training.updates.set_data(Tensor([1], ms.int32))
    training.callback.on_train_step_end(context(2))
    assert training.history.rows[0]["lr"] == pytest.approx(0.1)


def test_a_multiple_of_steps_is_passed_once_however_many_steps_are_taken_at_a_time():
    def passed(step: int, taken: int, steps: int | None) -> bool:
        return passed_multiple(SimpleNamespace(cur_step_num=step, steps_taken=taken), steps)

    assert [step for step in range(1, 10) if passed(step, 1, 3)] == [3, 6, 9]
    assert [step for step in (4, 8, 12) if passed(step, 4, 6)] == [8, 12]
    assert not passed(6, 6, None) and passed(6, 6, 6)


class Noting(Callback):
    """Notes every call, with the step and epoch that it sees."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __getattribute__(self, name):
        if not name.startswith("on_"):
            return super().__getattribute__(name)

        def note(run_context):
            cb = run_context.original_args()
            self.calls.append((name, cb.cur_step_num, cb.cur_epoch_num))

        return note


@pytest.mark.parametrize(("done", "taken"), [(0, 1), (0, 2), (0, 4), (4, 2), (6, 2)])
def test_callbacks_see_the_steps_and_epochs_of_the_run_however_the_device_is_fed(done, taken):
    """MindSpore counts from 0, and calls each feed of a device an epoch; the run has 4 steps an epoch, and 2 epochs."""
    noting, group = Noting(), ProcessGroup()
    callbacks = RunCallbacks([noting], 4, done, group)
    cb = SimpleNamespace(cur_step_num=0, cur_epoch_num=1, net_outputs=Tensor(2.5, ms.float32))
    run_context = SimpleNamespace(original_args=lambda: cb)
    callbacks.on_train_begin(run_context)
    for feed_number in range((8 - done) // taken):
        cb.cur_epoch_num = feed_number + 1
        callbacks.on_train_epoch_begin(run_context)
        callbacks.on_train_step_begin(run_context)
        cb.cur_step_num += taken
        callbacks.on_train_step_end(run_context)
        assert (cb.mean_loss, cb.steps_taken) == (2.5, taken)
        callbacks.on_train_epoch_end(run_context)
    ends = [(step, epoch) for name, step, epoch in noting.calls if name == "on_train_step_end"]
    assert ends == [(step, (step - 1) // 4 + 1) for step in range(done + taken, 9, taken)]
    epoch_ends = [call[1:] for call in noting.calls if call[0] == "on_train_epoch_end"]
    assert epoch_ends == [(step, step // 4) for step in (4, 8) if step > done]
    begins = [call[1:] for call in noting.calls if call[0] == "on_train_epoch_begin"]
    assert begins == [(step, step // 4 + 1) for step in (0, 4) if step >= done]
