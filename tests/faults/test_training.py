"""Trainings that go wrong by themselves: a loss that is not finite, memory that grows."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mindspore import Parameter, Tensor

from src.checkpoint import load_network
from src.cli.errors import UserError
from src.devices.processes import ALONE
from src.training import plan as plan_module
from src.training.callbacks import NonFinite
from src.training.checkpoints import Checkpoints
from src.training.resume import read_saved
from src.training.run import train
from src.training.write_failures import Writing
from tests.programs import ROOT
from tests.runs import SMALL, configuration, metrics_rows

pytestmark = pytest.mark.usefixtures("no_pictures")


def with_spikes(monkeypatch, *steps: int, height: float = 1e30) -> None:
    """Have the learning rate of some steps break every weight."""
    original = plan_module.learning_rates

    def spiked(*arguments) -> np.ndarray:
        rates = original(*arguments)
        rates[[step - 1 for step in steps]] = height
        return rates

    monkeypatch.setattr(plan_module, "learning_rates", spiked)


# After a step that breaks the weights it is the loss of the next one that is not finite.
LIVELY = {**SMALL, "epochs": 5, "final_relu": False, "log_steps": 1, "batch_norm": "squeeze"}


def test_a_broken_step_ends_the_run_by_name_and_leaves_the_last_good_checkpoint(tmp_path, monkeypatch, faults):
    with_spikes(monkeypatch, 6)
    with faults("losses that are not finite", "ended the run in order") as inject, inject.fault("stop"):
        with pytest.raises(UserError, match=r"the loss is (nan|inf) at step 7 \(epoch 2, learning rate"):
            train(configuration(**LIVELY, output_path=str(tmp_path / "run")))
        assert not (tmp_path / "run" / "result.json").exists()
        assert read_saved(tmp_path / "run" / "checkpoints" / "SqueezeNet-1_4.ckpt").state.step == 4
        load_network(tmp_path / "run" / "best.ckpt")


def test_weights_that_the_last_relu_hides_from_the_loss_are_found_at_the_epochs_end():
    callback = NonFinite(np.full(8, 0.1))
    weight = Parameter(Tensor(np.ones(3, np.float32)), name="weight")
    network = SimpleNamespace(get_parameters=lambda: [weight], trainable_params=lambda: [weight])
    values = SimpleNamespace(cur_step_num=3, cur_epoch_num=1, steps_taken=1, mean_loss=2.3, train_network=network)
    context = SimpleNamespace(original_args=lambda: values)
    callback.on_train_step_end(context)
    callback.on_train_epoch_end(context)
    weight.set_data(Tensor(np.full(3, np.nan, np.float32)))
    callback.on_train_step_end(context)
    with pytest.raises(UserError, match=r"weight is not finite at step 3 \(epoch 1, learning rate 0.1\).*: lower"):
        callback.on_train_epoch_end(context)


def test_a_checkpoint_whose_weights_are_not_finite_is_not_written(tmp_path):
    said: list[str] = []
    weight = Parameter(Tensor(np.array([1, np.inf], np.float32)), name="weight")
    network = SimpleNamespace(get_parameters=lambda: [weight], trainable_params=lambda: [weight])
    writing = Writing(False, said.append)
    callback = Checkpoints(network, tmp_path, None, ALONE, lambda step: None, 4, 1, None, 10, writing, [])
    callback.on_train_step_end(SimpleNamespace(original_args=lambda: SimpleNamespace(cur_step_num=3, steps_taken=1)))
    assert said == ["warning: weight is not finite at step 3: no checkpoint is saved"]
    assert list(tmp_path.iterdir()) == []


GROWTH = """
    import gc, json, sys
    import src
    import psutil
    from src import visualize
    from src.training.callbacks import RunCallbacks
    from src.training.run import train
    from tests.runs import configuration

    visualize.save = lambda figure, path: None
    process, seen = psutil.Process(), {}
    original = RunCallbacks.on_train_step_end

    def measured(self, run_context):
        original(self, run_context)
        if self.step % 100 == 0:
            seen[self.step] = [process.memory_info().rss, process.num_fds(), process.num_threads()]

    RunCallbacks.on_train_step_end = measured
    result = train(configuration(**json.loads(sys.argv[1])))
    print(json.dumps({"seen": seen, "steps": result["steps"], "children": len(process.children())}))
"""


@pytest.mark.slow
def test_memory_files_and_threads_do_not_grow_over_2000_steps_and_50_evaluations(tmp_path):
    keys = {**SMALL, "epochs": 500, "warmup_epochs": 5, "lr_max": 0.01, "batch_norm": "squeeze", "eval_steps": 40}
    keys.update(
        augment="crop_flip", save_checkpoint_steps=100, scalars="tensorboard", output_path=str(tmp_path / "run")
    )
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(GROWTH), json.dumps(keys)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["steps"] == 2000 and outcome["children"] == 0
    evaluations = [row for row in metrics_rows(tmp_path / "run") if row["val_loss"]]
    assert len(evaluations) == 50
    seen = {int(step): values for step, values in outcome["seen"].items()}
    late = np.array([values for step, values in seen.items() if step >= 200])
    print(f"memory {late[0][0] / 2**20:.0f} MiB after step 200, {late[-1][0] / 2**20:.0f} at the end; {late[:, 1:].T}")
    assert late[:, 0].max() <= 1.05 * late[0, 0]
    assert late[:, 1].max() <= late[0, 1] + 2 and late[:, 2].max() <= late[0, 2] + 2
    assert Path(tmp_path / "run" / "result.json").is_file()
