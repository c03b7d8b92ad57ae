"""Trainings and evaluations of two to four real workers, on the CPU, compared with those of one process."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from src import visualize
from src.config import DeviceConfig, parse_train, with_keys
from src.inference.config import EvalConfig
from src.inference.evaluation import evaluate_model
from src.training import plan as plan_module
from src.training import run as training
from src.training.run import train
from tests.faults.test_resume import assert_same
from tests.launching.jobs import Launcher, note
from tests.made_data import by_class, write_image_csv, write_image_folder
from tests.programs import ROOT

pytestmark = pytest.mark.slow  # Fifteen trainings; that two workers train at all is in tests/launching/test_launch.py.

CPU = ["--device_target", "CPU", "--strict_device"]  # As the launcher has it.
DIGITS = [
    "--dataset",
    "digits",
    "--version",
    "cifar",
    "--image_size",
    "16",
    "--train_images",
    "320",
    "--val_split",
    "0.1",
    "--scalars",
    "none",
]
# 20 steps of 32 images, which move the weights by more than MOVED. What one device and several make of them differs in
# the last bit (6e-8), until such a bit decides which of two values a max pooling takes: in proportion to lr_max.
TWENTY = [
    *(*DIGITS, "--epochs", "2", "--log_steps", "3", "--lr_batch_size", "32"),
    *("--base_e", "32", "--incr_e", "32", "--final_relu", "false"),
    *("--lr_decay_mode", "cosine", "--lr_max", "0.01", "--warmup_epochs", "1"),
]
MOVED = 0.005
RECIPES = {
    "plain": [*TWENTY, "--dropout", "0"],
    "random": [*TWENTY, "--dropout", "0.5", "--augment", "crop_flip"],
}
# 40 steps an epoch on two devices, all that is random or of each device its own switched on.
FULL = [
    *(*DIGITS, "--epochs", "2", "--batch_size", "4", "--log_steps", "7", "--base_e", "16", "--incr_e", "16"),
    *("--batch_norm", "all", "--optimizer", "adam", "--lr_max", "0.003", "--lr_decay_mode", "cosine"),
    *("--warmup_epochs", "1", "--scaling_warmup_epochs", "1", "--dropout", "0.5"),
    *("--augment", "crop_flip", "color_jitter", "cutout", "--clip_norm", "0.5", "--ema_decay", "0.9"),
]
FULL_STEPS = 40
STOPPED = 53

# Trains one after the other in the same workers, since it takes them long to start, and keeps what came of each. Every
# rank has an output_path of its own, as if on a host of its own, and a clock by which a step takes a second.
TRAININGS = """
import json, os, sys
from pathlib import Path
from types import SimpleNamespace
import src
import numpy as np
from src import visualize
from src.training import callbacks, progress
from src.cli import signals
from src.training import plan as plan_module
from src.training import run as training
from src.config import parse_train
from src.devices.device import select_device
from src.cli.errors import UserError
from src.cli.signals import Interrupted
from src.training.checkpoints import Checkpoints

rank, step, plans, stop = int(os.environ["RANK_ID"]), 0, [], None
prepare, step_end = training.prepare, Checkpoints.on_train_step_end
visualize.save = lambda figure, path: None
progress.time = callbacks.time = SimpleNamespace(perf_counter=lambda: float(step))

def keeping(config):
    plans.append(prepare(config))
    return plans[-1]

def noting(self, run_context):
    global step
    step = run_context.original_args().cur_step_num
    step_end(self, run_context)

training.prepare, Checkpoints.on_train_step_end = keeping, noting
signals.received = lambda: 15 if stop == [rank, step] else 0
select_device(parse_train(sys.argv[1:], "").device)
plan_module.select_device = lambda config: "CPU"  # MindSpore takes it once.
for name, run, flags, stop in json.loads(os.environ["TRAININGS"]):
    step = 0
    try:
        outcome = training.train(parse_train([*sys.argv[1:], *flags, "--output_path", f"{run}/rank {rank}"], ""))
    except UserError as error:
        outcome = {"error": str(error)}
    except Interrupted as end:
        outcome = {"signal": int(end.number)}
    else:
        net = plans[-1].net
        trained = {parameter.name for parameter in net.trainable_params()}
        for kind in ("weights", "statistics"):
            parameters = [p for p in net.get_parameters() if (p.name in trained) == (kind == "weights")]
            np.savez(f"{name} {kind} {rank}.npz", **{p.name: p.asnumpy() for p in parameters})
    Path(f"{name} {rank}.json").write_text(json.dumps(outcome))
"""
# train.py, which waits at a step until there is a signal.
WAITING = f"""
import os, sys, time
from src.cli import signals
signals.watch()
signals.watch = lambda: None
import train
from src.cli.errors import run
from src.training.checkpoints import Checkpoints
step_end = Checkpoints.on_train_step_end

def waiting(self, run_context):
    if run_context.original_args().cur_step_num == int(os.environ["WAITS_AT"]) and os.environ["RANK_ID"] == "0":
        {note("waiting").rstrip()}
        deadline = time.monotonic() + 60
        while not signals.received() and time.monotonic() < deadline:
            time.sleep(0.01)
    step_end(self, run_context)

Checkpoints.on_train_step_end = waiting
run(train.main)
"""


class Trained:
    """What came of several trainings, one after the other in the same workers.

    trainings: of each the name, the run's folder, the flags, and None or [the rank that gets a SIGTERM, in which step].
    """

    def __init__(self, folder: Path, environment: dict, workers: int, *trainings: tuple):
        self.folder, self.workers = folder, workers
        (folder / "tmp").mkdir()
        variables = {**environment, "TRAININGS": json.dumps(trainings), "TMPDIR": str(folder / "tmp")}
        self.job = Launcher(folder, variables, TRAININGS, "--devices", workers).end(400)
        assert self.job.status == 0, self.job.err

    def outcomes(self, name: str) -> list[dict]:
        """Return what `train` returned to each rank, or the error or signal that ended it."""
        return [json.loads((self.folder / f"{name} {rank}.json").read_text()) for rank in range(self.workers)]

    def parameters(self, name: str, kind: str = "weights") -> list[dict[str, np.ndarray]]:
        """Return each rank's weights, or its statistics and counters."""
        stored = [np.load(self.folder / f"{name} {kind} {rank}.npz") for rank in range(self.workers)]
        return [dict(rank) for rank in stored]

    def run(self, name: str) -> Path:
        """Return the folder of a run, which rank 0 has written."""
        return self.folder / name / "rank 0"


@pytest.fixture(scope="module", autouse=True)
def no_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visualize, "save", lambda figure, path: None)
        yield


@pytest.fixture(scope="module")
def real() -> dict:
    """The environment for workers that run MindSpore."""
    return {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}


def alone(folder: Path, flags: list[str]) -> SimpleNamespace:
    """Train in this process: result, folder, and weights before and after."""
    kept: dict = {}
    prepare = training.prepare

    def keeping(config):
        plan = prepare(config)
        kept.update(net=plan.net, before={p.name: p.asnumpy().copy() for p in plan.net.trainable_params()})
        return plan

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "prepare", keeping)
        result = train(parse_train([*CPU, *flags, "--output_path", str(folder)], ""))
    after = {p.name: p.asnumpy() for p in kept["net"].trainable_params()}
    return SimpleNamespace(result=result, folder=folder, before=kept["before"], after=after)


@pytest.fixture(scope="module")
def references(tmp_path_factory) -> dict[str, SimpleNamespace]:
    """The recipes on one device with a batch of 32."""
    folder = tmp_path_factory.mktemp("one")
    return {name: alone(folder / name, [*RECIPES[name], "--batch_size", "32"]) for name in ("plain", "random")}


@pytest.fixture(scope="module")
def two(real, tmp_path_factory) -> Trained:
    """Two workers."""
    folder = tmp_path_factory.mktemp("two")
    alone(folder / "begun on one" / "rank 0", [*FULL, "--epochs", "1"])
    return Trained(
        *(folder, real, 2),
        *((name, name, [*flags, "--batch_size", "16"], None) for name, flags in RECIPES.items()),
        ("whole", "whole", FULL, None),
        ("stopped", "stopped", FULL, [1, STOPPED]),
        ("resumed", "stopped", [*FULL, "--resume"], None),
        ("begun on one", "begun on one", [*FULL, "--resume"], None),
        ("large batch", "large batch", [*FULL, "--batch_size", "161"], None),
        ("no file", "no file", [*FULL, "--pretrained", "nowhere.ckpt"], None),
    )


@pytest.fixture(scope="module")
def four(real, tmp_path_factory, made_images) -> Trained:
    """Four workers."""
    folder = tmp_path_factory.mktemp("four")
    images = made_images.train.images
    classes = by_class(images[:20], made_images.train.labels[:20] % 2, ["a", "b"])
    write_image_csv(folder / "csv", classes, [(image, "a") for image in images[:3]])
    few = {"a": images[:2], "b": images[:1]}
    write_image_folder(folder / "folder", {"train": classes, "val": classes, "test": few})
    brief = ["--epochs", "1", "--warmup_epochs", "0", "--batch_size", "2", "--image_size", "16", "--version", "cifar"]
    return Trained(
        *(folder, real, 4),
        ("plain", "plain", [*RECIPES["plain"], "--batch_size", "8"], None),
        ("validation", "validation", [*brief, "--dataset", "image_csv", "--data_path", "csv"], None),
        ("test", "test", [*brief, "--dataset", "image_folder", "--data_path", "folder"], None),
    )


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def difference(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> float:
    """Return the largest difference of two nets' weights."""
    assert first.keys() == second.keys()
    return max(float(np.abs(first[name] - second[name]).max()) for name in first)


# The same mathematics


@pytest.mark.parametrize(
    "workers, recipe, reference",
    [
        ("two", "plain", "plain"),
        ("two", "random", "random"),
        ("four", "plain", "plain"),
    ],
)
def test_several_devices_train_as_one_with_their_whole_batch(workers, recipe, reference, references, request):
    one, several = references[reference], request.getfixturevalue(workers)
    assert difference(one.before, one.after) > MOVED
    found = difference(one.after, several.parameters(recipe)[0])
    print(f"{several.workers} workers, {recipe}: weights differ by {found:.3g}")
    assert found < 1e-5
    assert one.result["steps"] == several.outcomes(recipe)[0]["steps"] == 20
    assert len(rows(one.folder)) == len(rows(several.run(recipe))) == 10  # Steps 3, 6, 9, 10, ..., and two evaluations.
    for expected, row in zip(rows(one.folder), rows(several.run(recipe))):
        assert [key for key, value in row.items() if value] == [key for key, value in expected.items() if value]
        for key, value in row.items():
            if value and key != "seconds":
                assert float(value) == pytest.approx(float(expected[key]), rel=0, abs=1e-5), (key, expected)


@pytest.mark.parametrize(
    "workers, name",
    [
        ("two", "plain"),
        ("two", "random"),
        ("two", "whole"),
        ("two", "resumed"),
        ("four", "plain"),
    ],
)
@pytest.mark.parametrize("kind", ["weights", "statistics"])
def test_all_ranks_end_bit_equal(workers, name, kind, request):
    first, *others = request.getfixturevalue(workers).parameters(name, kind)
    if name == "whole" and kind == "statistics":
        assert len([key for key in first if key.endswith((".moving_mean", ".moving_variance"))]) == 26
    for other in others:
        assert other.keys() == first.keys()
        assert [key for key in first if other[key].tobytes() != first[key].tobytes()] == []


def test_learning_rates_are_scaled_to_the_images_a_step(two):
    config = parse_train(FULL, "")
    scaled = plan_module.learning_rates(config, FULL_STEPS, 2)
    plain = plan_module.learning_rates(with_keys(config, lr_scaling="none"), FULL_STEPS, 2)
    np.testing.assert_allclose(scaled[FULL_STEPS:], 2 * plain[FULL_STEPS:], rtol=1e-6)
    found = {int(row["step"]): float(row["lr"]) for row in rows(two.run("whole")) if row["lr"]}
    assert len(found) == 13 and found == {step: float(scaled[step - 1]) for step in found}


# Outputs


def test_rank_0_alone_writes_the_runs_folder(two):
    expected = {
        *("config.yaml", "train.log", "mindspore.log", "metrics.csv", "result.json", "best.ckpt", "squeezenet.ckpt"),
        "checkpoints",
    }
    assert {path.name for path in two.run("whole").iterdir()} == expected
    for name in ("plain", "random", "whole", "stopped", "begun on one"):
        assert [path.name for path in (two.folder / name).iterdir()] == ["rank 0"]


def test_copies_for_ranks_on_other_hosts_are_not_left_behind(two, four):
    assert list((two.folder / "tmp").glob("squeezenet_*")) == []
    assert list((four.folder / "tmp").glob("squeezenet_*")) == []


def test_the_result_is_that_of_the_whole_job(two, four):
    for job, name, images in ((two, "plain", 32), (four, "plain", 32), (two, "whole", 8)):
        first, *others = job.outcomes(name)
        assert first["devices"] == job.workers
        # A step takes a second of the workers' clock.
        assert first["images_per_second"] == images
        written = json.loads((job.run(name) / "result.json").read_text())
        assert written == first
        for other in others:
            for key in ("validation", "test", "steps", "devices", "images_per_second", "broken_images"):
                assert other[key] == first[key], key


def test_every_rank_has_a_log_of_its_own(two):
    (logs,) = (two.folder / "logs").iterdir()
    for rank in range(2):
        text = (logs / f"worker_{rank}.log").read_text()
        assert f"2 devices; run folder: whole/rank {rank}" in text and f"whole/rank {1 - rank}" not in text


# What cannot be shared


def refused(job: Trained, name: str) -> list[str]:
    """Return what each rank said of a training that none of them began."""
    assert not (job.folder / name).exists() or not list(job.run(name).iterdir())
    messages = [outcome["error"] for outcome in job.outcomes(name)]
    assert all(len(message.splitlines()) == 1 for message in messages)
    return messages


def test_more_images_a_step_than_there_are_is_an_error(two):
    message = "batch_size: 161 is not allowed: there are 320 training images for 2 devices"
    assert refused(two, "large batch") == [message] * 2


@pytest.mark.parametrize("name", ["validation", "test"])
def test_fewer_images_to_evaluate_than_devices_are_an_error_before_anything_is_trained(four, name):
    message = "3 images are too few for 4 devices; evaluate on fewer devices"
    assert all(message in found for found in refused(four, name))


def test_a_checkpoint_that_is_not_there_is_an_error_on_all_ranks(two):
    assert all("nowhere.ckpt: " in found for found in refused(two, "no file"))


# Stopped and resumed


def test_a_stop_of_one_rank_within_an_epoch_ends_all_and_the_resumed_run_is_bit_identical(two):
    assert STOPPED % FULL_STEPS
    assert two.outcomes("stopped") == [{"signal": signal.SIGTERM}] * 2
    assert [outcome["resumed_at_steps"] for outcome in two.outcomes("resumed")] == [[STOPPED]] * 2
    assert_same(two.run("stopped"), two.run("whole"))
    for kind in ("weights", "statistics"):
        for found, expected in zip(two.parameters("resumed", kind), two.parameters("whole", kind)):
            assert [key for key in expected if found[key].tobytes() != expected[key].tobytes()] == []


def epochs_of(folder: Path, key: str) -> list[tuple[int, int]]:
    """Return step and epoch of the rows of metrics.csv that have a figure."""
    return [(int(row["step"]), int(row["epoch"])) for row in rows(folder) if row[key]]


def test_a_run_begun_on_one_device_goes_on_on_two(two):
    first = two.outcomes("begun on one")[0]
    assert first["resumed_at_steps"] == [FULL_STEPS] and first["steps"] == 2 * FULL_STEPS
    folder = two.run("begun on one")
    assert [epoch for _, epoch in epochs_of(folder, "val_loss")] == [1, 2]
    trained = [step for step, epoch in epochs_of(folder, "loss") if epoch == 2]
    assert trained == [42, 49, 56, 63, 70, 77, 80]
    epochs = [epoch for _, epoch in epochs_of(folder, "loss")]
    assert epochs == sorted(epochs) and epochs.count(1) >= 12


@pytest.fixture(scope="module")
def interrupted(real, tmp_path_factory) -> Path:
    """A folder with train.py's run of FULL, interrupted by a real SIGTERM in step STOPPED."""
    folder = tmp_path_factory.mktemp("interrupted")
    job = launched(folder, real, [], STOPPED)
    job.process.send_signal(signal.SIGTERM)
    assert job.end().status == 143, job.err
    assert job.left() == []
    return folder


def launched(folder: Path, environment: dict, flags: list[str], waits_at: int) -> Launcher:
    """Start train.py on FULL, and return its launcher when it waits at a step for a signal; at 0, at once."""
    (folder / "waiting").unlink(missing_ok=True)
    variables = {**environment, "WAITS_AT": str(waits_at)}
    job = Launcher(folder, variables, WAITING, *FULL, "--output_path", "run", *flags)
    if waits_at:
        job.wait_for("waiting", 120)
    return job


def test_a_job_interrupted_again_and_again_ends_bit_identical(interrupted, two, real, tmp_path):
    folder = tmp_path / "job"
    shutil.copytree(interrupted, folder)
    assert (folder / "run" / "checkpoints" / f"SqueezeNet-2_{STOPPED - FULL_STEPS}.ckpt").exists()
    again = launched(folder, real, ["--resume"], STOPPED + 7)
    again.process.send_signal(signal.SIGINT)
    assert again.end().status == 130, again.err
    last = launched(folder, real, ["--resume"], 0).end()
    assert last.status == 0, last.err
    result = json.loads((folder / "run" / "result.json").read_text())
    assert result["resumed_at_steps"] == [STOPPED, STOPPED + 7]
    assert_same(folder / "run", two.run("whole"))
    assert last.left() == []


def test_a_job_of_two_goes_on_on_one_device_from_the_end_of_an_epoch(interrupted, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(interrupted / "run", folder)
    done = alone(folder, ["--resume"])
    assert done.result["resumed_at_steps"] == [2 * FULL_STEPS] and done.result["steps"] == 4 * FULL_STEPS
    assert done.result["devices"] == 1
    assert [epoch for _, epoch in epochs_of(folder, "val_loss")] == [1, 2]
    trained = [step for step, epoch in epochs_of(folder, "loss") if epoch == 2]
    assert trained == [*range(84, 160, 7), 160]  # None of those that the two devices had begun.


# Evaluation


def test_three_workers_evaluate_to_the_last_digit_as_one(two, real, tmp_path):
    checkpoint = two.run("whole") / "best.ckpt"
    (tmp_path / "eval.yaml").write_text(f"ckpt_path: {json.dumps(str(checkpoint))}\n")  # --ckpt_path is the launcher's.
    job = Launcher(
        *(tmp_path, real, None, "--program", "eval.py", "--devices", 3, "--config", "eval.yaml"),
        *("--output_path", "evaluated"),
    ).end()
    assert job.status == 0, job.err
    found = json.loads((tmp_path / "evaluated" / "result.json").read_text())
    config = EvalConfig(str(checkpoint), output_path=str(tmp_path / "alone"))
    expected = evaluate_model(config, DeviceConfig(device_target="CPU"))
    assert found["images"] == 359 and found["devices"] == 3 and 0.1 < found["accuracy"] < 1
    assert {**found, "devices": 1, "output_path": expected["output_path"]} == expected
    tables = [(tmp_path / folder / "confusion_matrix.csv").read_text() for folder in ("evaluated", "alone")]
    assert tables[0] == tables[1]
