"""What the processes of a group tell one another, and the arithmetic of training on several devices.

The ranks are threads, whose ProcessGroup adds up as an allreduce does; tests/launching/test_distributed.py has real
processes.
"""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
from mindspore import Tensor, nn

from src.cli.errors import UserError
from src.config import DataConfig, ScheduleConfig, TrainConfig
from src.dataset import evaluation_pipeline, training_pipeline
from src.dataset.preprocessing import Preprocessing
from src.dataset.source import ArraySource
from src.devices import processes as processes_module
from src.devices.processes import ALONE, ProcessGroup, average_statistics, is_worker, set_vector, vector
from src.inference.metrics import Classification, Evaluation
from src.lr_generator import get_lr, scale_lr
from src.training.plan import learning_rates
from tests.made_data import refusal
from tests.runs import configuration


class Meeting:
    """Where threads add up their arrays."""

    def __init__(self, size: int):
        self.barrier, self.shares = threading.Barrier(size, timeout=30), [None] * size


class ThreadGroup(ProcessGroup):
    """A rank that is a thread."""

    def __init__(self, rank: int, meeting: Meeting):
        super().__init__(rank, len(meeting.shares))
        self.meeting = meeting

    def sum(self, values: np.ndarray) -> np.ndarray:
        self.meeting.shares[self.rank] = np.asarray(values, np.float32)
        self.meeting.barrier.wait()
        shares = list(self.meeting.shares)
        assert len({share.shape for share in shares}) == 1
        self.meeting.barrier.wait()
        return np.sum(shares, axis=0, dtype=np.float32)


def together(size: int, act: Callable[[ProcessGroup], Any]) -> list:
    """Return what a function returns to each of so many ranks, or the error that it raises there."""
    meeting, outcomes = Meeting(size), [None] * size

    def work(rank: int) -> None:
        try:
            outcomes[rank] = act(ThreadGroup(rank, meeting))
        except Exception as error:
            outcomes[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


# Who there is


def test_a_process_that_nobody_started_as_a_worker_is_alone_and_the_main_process(monkeypatch):
    for name in ("MS_ROLE", "RANK_TABLE_FILE", "RANK_ID", "RANK_SIZE", "DEVICE_ID"):
        monkeypatch.delenv(name, raising=False)
    assert not is_worker()
    group = ProcessGroup.join()
    assert (group.rank, group.size, group.is_main_process) == (0, 1, True)


@pytest.mark.parametrize(
    "variables, worker",
    [
        ({"MS_ROLE": "MS_WORKER"}, True),
        ({"MS_ROLE": "MS_SCHED"}, False),
        ({"MS_ROLE": "MS_SCHED", "RANK_TABLE_FILE": "hccl.json", "RANK_ID": "0", "RANK_SIZE": "8"}, False),
        ({"RANK_TABLE_FILE": "hccl.json", "RANK_ID": "0", "RANK_SIZE": "8"}, True),
        ({"RANK_TABLE_FILE": "hccl.json", "RANK_ID": "0", "RANK_SIZE": "1"}, False),
        ({"RANK_TABLE_FILE": "hccl.json", "RANK_ID": "0"}, False),
        ({"RANK_TABLE_FILE": "hccl.json", "RANK_SIZE": "8"}, False),
        ({"RANK_TABLE_FILE": "hccl.json"}, False),
    ],
    ids=lambda value: " ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_workers_are_known_by_their_role_or_by_a_rank_table_with_rank_and_size(variables, worker, monkeypatch):
    for name in ("MS_ROLE", "RANK_TABLE_FILE", "RANK_ID", "RANK_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_worker() == worker


def test_workers_that_join_average_their_gradients(monkeypatch):
    monkeypatch.setenv("MS_ROLE", "MS_WORKER")
    contexts = []
    monkeypatch.setattr(processes_module, "init", lambda: None)
    monkeypatch.setattr(processes_module, "get_rank", lambda: 2)
    monkeypatch.setattr(processes_module, "get_group_size", lambda: 3)
    monkeypatch.setattr(processes_module.ms, "set_auto_parallel_context", lambda **context: contexts.append(context))
    group = ProcessGroup.join()
    assert (group.rank, group.size, group.is_main_process) == (2, 3, False)
    fused = {"allreduce": {"mode": "auto", "config": None}}  # One allreduce of all gradients.
    assert contexts == [
        {"parallel_mode": "data_parallel", "gradients_mean": True, "device_num": 3, "comm_fusion": fused}
    ]


def test_the_scheduler_serves_and_ends_and_others_go_on(monkeypatch):
    served = []
    monkeypatch.setattr(processes_module, "init", lambda: served.append(True))
    monkeypatch.setattr(processes_module.ms, "set_device", lambda target: None)
    monkeypatch.setenv("MS_ROLE", "MS_WORKER")
    processes_module.serve_as_scheduler()
    assert served == []
    monkeypatch.setenv("MS_ROLE", "MS_SCHED")
    with pytest.raises(SystemExit) as end:
        processes_module.serve_as_scheduler()
    assert end.value.code == 0 and served == [True]


# What they tell one another


def test_alone_sum_mean_and_gathered_are_the_value_itself():
    values = np.array([[1.5, -2], [3, 4]])
    for found in (ALONE.sum(values), ALONE.mean(values), ALONE.all_gather(values)[0]):
        assert found.dtype == np.float32 and np.array_equal(found, values)
    assert ALONE.all_gather(values).shape == (1, 2, 2)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_all_ranks_get_the_same_sum_and_mean(size):
    for total, mean in together(
        size, lambda group: (group.sum(np.full(3, group.rank)), group.mean(np.float32(group.rank)))
    ):
        assert total.tolist() == [sum(range(size))] * 3
        assert mean == np.float32((size - 1) / 2)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
def test_gathered_values_are_everyones_to_the_last_bit(shape):
    own = [np.random.RandomState(rank).standard_normal(shape).astype(np.float32) for rank in range(3)]
    for found in together(3, lambda group: group.all_gather(own[group.rank])):
        assert found.tobytes() == np.stack(own).tobytes()


def test_a_value_that_is_not_finite_reaches_all_ranks_and_spoils_no_other():
    values = [1.0, np.nan, np.inf]
    for found in together(3, lambda group: group.all_gather(np.array(values[group.rank]))):
        np.testing.assert_array_equal(found, np.array(values, np.float32))
    assert all(np.isnan(found) for found in together(3, lambda group: group.mean(np.array(values[group.rank]))))


@pytest.mark.parametrize("length", [0, 1, 256, 100_003])
def test_every_rank_can_read_a_file_of_the_leading_one(length, tmp_path):
    content = np.random.RandomState(length).bytes(length)
    (tmp_path / "here.ckpt").write_bytes(content)
    # Only the leading rank has the folder.
    paths = together(
        3,
        lambda group: group.file(tmp_path / "here.ckpt" if group.is_main_process else Path("elsewhere") / "here.ckpt"),
    )
    assert paths[0] == tmp_path / "here.ckpt" and len(set(paths)) == 3
    assert [path.name for path in paths] == ["here.ckpt"] * 3


def test_a_files_copy_has_its_content_and_goes_with_the_job(tmp_path):
    content = np.random.RandomState(0).bytes(70_001)
    (tmp_path / "here.ckpt").write_bytes(content)
    jobs: dict[int, ProcessGroup] = {}

    def read(group: ProcessGroup) -> tuple[Path, bytes]:
        jobs[group.rank] = group
        path = group.file(tmp_path / "here.ckpt")
        return path, path.read_bytes()

    outcomes = together(2, read)
    assert [found for _, found in outcomes] == [content] * 2
    copy = outcomes[1][0]
    assert copy.exists()
    jobs.clear()
    assert not copy.parent.exists() and (tmp_path / "here.ckpt").exists()


def test_a_file_that_the_leading_rank_cannot_read_is_an_error_on_all(tmp_path):
    errors = together(3, lambda group: group.file(tmp_path / "none.ckpt"))
    assert [type(error) for error in errors] == [UserError] * 3
    assert str(errors[0]) == f"{tmp_path / 'none.ckpt'}: cannot be read (No such file or directory)"
    assert str(errors[1]).startswith(f"{tmp_path / 'none.ckpt'}: cannot be read (")


def test_alone_a_file_is_read_where_it_is():
    assert ALONE.file("some/file.ckpt") == Path("some/file.ckpt")


# Batch norm statistics


def net_of(rank: int) -> nn.Cell:
    net = nn.SequentialCell(nn.Conv2d(3, 4, 1, has_bias=True), nn.BatchNorm2d(4), nn.BatchNorm2d(2))
    random = np.random.RandomState(rank)
    for parameter in net.get_parameters():
        parameter.set_data(Tensor(random.standard_normal(parameter.shape).astype(np.float32)))
    return net


def values_of(net: nn.Cell) -> dict[str, np.ndarray]:
    return {parameter.name: parameter.asnumpy().copy() for parameter in net.get_parameters()}


def test_averaged_statistics_are_the_mean_on_all_ranks_and_nothing_else_changes():
    nets = [net_of(rank) for rank in range(3)]
    before = [values_of(net) for net in nets]
    assert together(3, lambda group: average_statistics(nets[group.rank], group)) == [None] * 3
    for rank, net in enumerate(nets):
        for name, value in values_of(net).items():
            if ".moving_" in name:
                expected = np.mean([values[name] for values in before], axis=0)
                np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-7)
                assert value.tobytes() == nets[0].parameters_dict()[name].asnumpy().tobytes()
            else:
                assert value.tobytes() == before[rank][name].tobytes()


def test_frozen_statistics_are_left_as_they_are():
    """Three equal numbers need not have themselves as their mean."""
    nets = [net_of(0) for _ in range(3)]
    for net in nets:
        net[1].use_batch_statistics = False
    before = values_of(nets[0])
    together(3, lambda group: average_statistics(nets[group.rank], group))
    assert all(values_of(net)["1.moving_mean"].tobytes() == before["1.moving_mean"].tobytes() for net in nets)


def test_alone_and_without_batch_norm_there_is_nothing_to_average():
    net = net_of(0)
    before = values_of(net)
    average_statistics(net, ALONE)
    assert all(value.tobytes() == before[name].tobytes() for name, value in values_of(net).items())
    average_statistics(nn.Conv2d(1, 1, 1), ThreadGroup(0, Meeting(2)))  # Would wait for the other rank.


def test_a_vector_of_parameters_sets_them_again():
    net = net_of(0)
    parameters, before = list(net.get_parameters()), values_of(net)
    values = vector(parameters)
    assert values.dtype == np.float32 and values.shape == (sum(value.size for value in before.values()),)
    set_vector(parameters, np.zeros_like(values))
    assert not any(value.any() for value in values_of(net).values())
    set_vector(parameters, values)
    assert all(value.tobytes() == before[name].tobytes() for name, value in values_of(net).items())


# Evaluation: every image once


class Numbered(ArraySource):
    """Images whose pixels say their number, of which some cannot be read."""

    def __init__(self, count: int, unreadable: tuple[int, ...] = ()):
        numbers = np.arange(count)
        images = np.stack([numbers // 256, numbers % 256, numbers * 0], -1).reshape(count, 1, 1, 3).astype(np.uint8)
        labels = np.random.RandomState(0).randint(0, 10, count)
        super().__init__(images, labels, [str(i) for i in range(10)], (0.5,) * 3, (0.5,) * 3)
        self.unreadable = unreadable

    def image(self, index: int, choice=None) -> np.ndarray:
        if index in self.unreadable:
            raise UserError(f"image {index}: not an image")
        return super().image(index, choice)


def shares(source: Numbered, size: int, batch_size: int) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Return the batches of each rank: logits that follow from the image's number, and labels."""
    logits = np.random.RandomState(1).standard_normal((len(source), 10)).astype(np.float32) * 3
    preprocessing = Preprocessing(1, "resize", "dataset", source.mean, source.std)
    found = []
    for rank in range(size):
        pipeline = evaluation_pipeline(source, preprocessing, batch_size, 1, size, rank, 10)
        batches = pipeline.create_dict_iterator(num_epochs=1, output_numpy=True)
        found.append([])
        for batch in batches:
            pixels = np.rint(preprocessing.undo(batch["image"]).astype(float)).astype(int)
            numbers = pixels[:, 0, 0, 0] * 256 + pixels[:, 0, 0, 1]
            found[-1].append((logits[numbers], batch["label"]))
    return found


def evaluated(source: Numbered, size: int, batch_size: int) -> list[Evaluation]:
    """Return what the ranks get from an evaluation together."""
    batches = shares(source, size, batch_size)

    def measure(group: ProcessGroup) -> Evaluation:
        metric = Classification(group)
        for logits, labels in batches[group.rank]:
            metric.update(Tensor(logits), Tensor(labels.astype(np.int32)))
        return metric.eval()

    return together(size, measure) if size > 1 else [measure(ALONE)]


@pytest.mark.parametrize(
    "count, size, batch_size, unreadable",
    [
        *((10_000, 3, 250, ()), (7, 4, 2, ()), (7, 4, 32, ()), (4, 4, 1, ()), (359, 3, 32, ()), (100, 8, 7, ())),
        *((7, 4, 2, (0,)), (7, 4, 2, (3,)), (7, 4, 2, (6,)), (101, 3, 5, (0, 1, 2, 50, 100)), (9, 3, 2, (1, 4, 7))),
    ],
)
def test_an_evaluation_shared_by_ranks_is_that_of_one_to_the_last_digit(count, size, batch_size, unreadable):
    (alone,) = evaluated(Numbered(count, unreadable), 1, 250)
    readable = [i for i in range(count) if i not in unreadable]
    assert alone.indices.tolist() == readable
    source = Numbered(count, unreadable)
    assert alone.labels.tolist() == source.labels[readable].tolist()
    for evaluation in evaluated(source, size, batch_size):
        for field in dataclasses.fields(Evaluation):
            found, expected = getattr(evaluation, field.name), getattr(alone, field.name)
            assert np.array_equal(found, expected) and np.asarray(found).dtype == np.asarray(expected).dtype, field.name
        assert evaluation.summary() == alone.summary()
        assert evaluation.accuracy_per_class() == alone.accuracy_per_class()
        assert np.array_equal(evaluation.confusion(), alone.confusion())


def test_when_no_rank_could_read_an_image_all_say_so():
    labels = np.full(2, -1, np.int32)

    def measure(group: ProcessGroup) -> Evaluation:
        metric = Classification(group)
        metric.update(Tensor(np.zeros((2, 10), np.float32)), Tensor(labels))
        return metric.eval()

    assert [str(error) for error in together(2, measure)] == ["none of the images to evaluate can be read"] * 2


@pytest.mark.parametrize("count, size", [(3, 4), (1, 2)])
def test_a_share_without_an_image_is_an_error_of_one_line(count, size):
    message = f"{count} images are too few for {size} devices; evaluate on fewer devices"
    assert refusal(shares, Numbered(count), size, 1) == message


def test_a_step_of_more_images_than_there_are_is_an_error_of_one_line():
    source = Numbered(60)
    preprocessing = Preprocessing(1, "resize", "dataset", source.mean, source.std)
    message = refusal(training_pipeline, source, DataConfig(batch_size=16), preprocessing, 1, 4, 0)
    assert message == "batch_size: 16 is not allowed: there are 60 training images for 4 devices"


# Learning rates: the linear scaling rule


RATES = np.linspace(0.1, 0.01, 50).astype(np.float32)


def test_scaled_rates_are_factor_times_as_high_after_the_warm_up_and_rise_steadily_before():
    scaled = scale_lr(RATES, 8, 10)
    assert scaled.dtype == np.float32 and scaled.shape == RATES.shape
    np.testing.assert_allclose(scaled[9:], 8 * RATES[9:], rtol=1e-6)
    scales = scaled[:10] / RATES[:10]
    np.testing.assert_allclose(scales, 1 + 7 * np.arange(1, 11) / 10, rtol=1e-6)


def test_without_a_warm_up_all_rates_are_scaled():
    np.testing.assert_allclose(scale_lr(RATES, 4, 0), 4 * RATES, rtol=1e-6)


def test_a_factor_below_1_lowers_the_rates_as_steadily():
    scaled = scale_lr(RATES, 0.25, 4)
    np.testing.assert_allclose(scaled[:4] / RATES[:4], [0.8125, 0.625, 0.4375, 0.25], rtol=1e-6)
    np.testing.assert_allclose(scaled[4:], RATES[4:] / 4, rtol=1e-6)


def test_a_warm_up_longer_than_the_training_never_reaches_the_factor():
    assert (scale_lr(RATES, 8, 100) / RATES).max() == pytest.approx(1 + 7 * 50 / 100)


@pytest.mark.parametrize("warmup", [0, 10])
def test_factor_1_leaves_the_array_as_it_is(warmup):
    np.testing.assert_array_equal(scale_lr(RATES, 1, warmup), RATES)


def training_with(**keys) -> TrainConfig:
    return configuration(**{"epochs": 6, "warmup_epochs": 1, "lr_max": 0.1, "scaling_warmup_epochs": 2, **keys})


def unscaled(config: TrainConfig) -> np.ndarray:
    schedule = dataclasses.asdict(config.schedule)
    for key in ("lr_scaling", "lr_batch_size", "scaling_warmup_epochs"):
        del schedule[key]
    return get_lr(total_epochs=schedule.pop("epochs"), steps_per_epoch=10, **schedule)


@pytest.mark.parametrize(
    "keys, devices, factor",
    [
        ({"batch_size": 32}, 1, 1),
        ({"batch_size": 32}, 8, 8),
        ({"batch_size": 16, "lr_batch_size": 32}, 2, 1),
        ({"batch_size": 8, "lr_batch_size": 32}, 4, 1),
        ({"batch_size": 32, "lr_batch_size": 256}, 8, 1),
        ({"batch_size": 64, "lr_batch_size": 32}, 1, 2),
        ({"batch_size": 64, "lr_batch_size": 256}, 2, 0.5),
        ({"batch_size": 32, "lr_scaling": "none"}, 8, 1),
        ({"batch_size": 32, "lr_scaling": "none", "lr_batch_size": 512}, 8, 1),
    ],
    ids=str,
)
def test_learning_rates_follow_the_images_a_step(keys, devices, factor, capsys):
    config = training_with(**keys)
    rates, plain = learning_rates(config, 10, devices), unscaled(config)
    assert rates.dtype == np.float32 and rates.shape == (60,)
    np.testing.assert_allclose(rates[20:], factor * plain[20:], rtol=1e-6)
    said = capsys.readouterr().out
    if factor == 1:
        assert np.array_equal(rates, plain) and said == ""
    else:
        images = keys["batch_size"] * devices
        assert said == f"learning rates are scaled by {factor:g}, as a step has {images} images\n"
        assert rates[0] == pytest.approx(plain[0] * (1 + (factor - 1) / 20))


def test_by_default_rates_are_scaled_by_the_devices_within_five_epochs():
    schedule = ScheduleConfig()
    assert (schedule.lr_scaling, schedule.lr_batch_size, schedule.scaling_warmup_epochs) == ("linear", None, 5)
