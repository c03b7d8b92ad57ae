"""A compression that was interrupted while it trained, however, ends like one that was not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import mindspore as ms
import pytest

from src.checkpoint import save_checkpoint
from src.cli import signals
from src.cli.signals import Interrupted
from src.compression.compress import compress
from src.compression.config import CompressConfig, Compression, MeasureConfig, RetrainConfig
from src.compression.unfinished import FILE, Keeping
from src.config import DeviceConfig
from src.dataset.preprocessing import Preprocessing
from src.model_card import ModelCard
from tests.made_data import refusal
from tests.programs import ROOT

pytestmark = pytest.mark.usefixtures("graph_mode")


def save_net(path, seed: int) -> None:
    """Save a small net for digits, untrained."""
    preprocessing = Preprocessing(12, "resize", "dataset", (0.5,) * 3, (0.5,) * 3)
    model = {"num_classes": 10, "version": "cifar", "base_e": 16, "incr_e": 16, "batch_norm": "squeeze"}
    card = ModelCard(model, [str(i) for i in range(10)], preprocessing, "digits", 0.0)
    ms.set_seed(seed)
    save_checkpoint(card.build(), path, card)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("unfinished") / "net.ckpt"
    save_net(path, seed=1)
    return path


def configuration(checkpoint, output, **changed) -> Compression:
    """Of 2 epochs of pruning and 2 of training codebooks, 4 steps each, with everything that has a state."""
    given = {"sparsity": 0.6, "bits": 3, **changed}
    return Compression(
        CompressConfig(ckpt_path=str(checkpoint), output_path=str(output), **given),
        MeasureConfig(dataset="digits", eval_images=100),
        RetrainConfig(train_epochs=2, centroid_epochs=2, train_images=64, train_batch_size=16, distillation=0.5),
        DeviceConfig(device_target="CPU"),
    )


def stop_at(monkeypatch, phase: str, step: int, kill: bool) -> None:
    """Have a SIGTERM come during a step, or an end of the process after it."""
    original = Keeping.on_train_step_end

    def ending(self, run_context):
        here = (self.state.phase, run_context.original_args().cur_step_num) == (phase, step)
        if here and not kill:
            monkeypatch.setitem(signals._state, "received", signal.SIGTERM)
        original(self, run_context)
        if here and kill:
            raise Interrupted(signal.SIGKILL)

    monkeypatch.setattr(Keeping, "on_train_step_end", ending)


# Within an epoch of pruning, at its end, and as the codebooks are trained; killed, the steps since the epoch are lost.
STOPS = [("pruning", 3, False), ("pruning", 6, True), ("pruning", 8, False), ("codebooks", 1, False)]


@pytest.mark.thorough
def test_a_compression_stopped_again_and_again_ends_as_one_that_was_not(checkpoint, tmp_path):
    whole = compress(configuration(checkpoint, tmp_path / "whole"), lambda line: None)
    said: list[str] = []
    for phase, step, kill in STOPS:
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, phase, step, kill)
            with pytest.raises(Interrupted):
                compress(configuration(checkpoint, tmp_path / "stopped", resume=True), said.append)
        assert [entry.name for entry in (tmp_path / "stopped").iterdir()] == [FILE]
    found = compress(configuration(checkpoint, tmp_path / "stopped", resume=True), said.append)
    assert found["steps"] == whole["steps"]
    files = [(tmp_path / folder / "net.sqz").read_bytes() for folder in ("whole", "stopped")]
    assert files[0] == files[1] and not (tmp_path / "stopped" / FILE).exists()
    assert said[0] == f"{tmp_path / 'stopped'}: no state to resume from yet; starting from the first step"
    assert [line for line in said[1:] if "stopped at" in line or "resumed at" in line] == [
        "pruning: stopped at step 3; continue with the same command and --resume",
        "pruning: resumed at step 3 of 8",
        "pruning: resumed at step 4 of 8",
        "pruning: stopped at step 8; continue with the same command and --resume",
        "pruning: resumed at step 8 of 8",
        "codebooks: stopped at step 1; continue with the same command and --resume",
        "codebooks: resumed at step 1 of 8",
    ]


@pytest.mark.thorough
def test_another_command_or_network_does_not_continue_it_and_nothing_of_it_is_lost(tmp_path, monkeypatch):
    stop_at(monkeypatch, "pruning", 1, kill=False)
    checkpoint, output, ignored = tmp_path / "net.ckpt", tmp_path / "stopped", lambda line: None
    save_net(checkpoint, seed=1)
    with pytest.raises(Interrupted):
        compress(configuration(checkpoint, output), ignored)
    monkeypatch.undo()
    kept = (output / FILE).read_bytes()
    again = refusal(compress, configuration(checkpoint, output), ignored)
    assert again.startswith(f"{output}: already contains a run; continue it with --resume, ")
    other = refusal(compress, configuration(checkpoint, output, resume=True, sparsity=0.5), ignored)
    assert other.startswith(f"{output}: was started with other values (sparsity 0.6); resume with those, or ")
    save_net(checkpoint, seed=2)
    other = refusal(compress, configuration(checkpoint, output, resume=True), ignored)
    assert other.startswith(f"{output}: was started with other values (contents of ckpt_path sha256 ")
    assert (output / FILE).read_bytes() == kept
    (output / FILE).write_bytes(kept[:-2000])
    assert refusal(compress, configuration(checkpoint, output, resume=True), ignored).startswith(f"{output / FILE}: ")
    shutil.copy(checkpoint, output / FILE)
    foreign = refusal(compress, configuration(checkpoint, output, resume=True), ignored)
    assert foreign == f"{output / FILE}: contains no state of a compression; start again with --overwrite"


@pytest.mark.slow
def test_ctrl_c_is_two_lines_and_the_same_command_goes_on(checkpoint, tmp_path):
    command = [sys.executable, str(ROOT / "compress.py"), str(checkpoint), "--output_path", "out", "--resume"]
    flags = ("--sparsity", "0.5", "--train_epochs", "20", "--dataset", "digits", "--device_target", "CPU")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    place = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}
    with subprocess.Popen([*command, *flags], **pipes, **place) as process:
        for line in process.stdout:
            if line.startswith("pruning, epoch 1/"):
                process.send_signal(signal.SIGINT)
                break
        output, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGINT
    assert errors == "\nstopping after this step; interrupt again to stop at once\ninterrupted\n"
    assert output.splitlines()[-1].endswith("continue with the same command and --resume")
    again = subprocess.run([*command, *flags], **pipes, **place)
    assert (again.returncode, again.stderr) == (0, "")
    assert "pruning: resumed at step " in again.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [step["step"] for step in report["steps"]] == ["original", "pruned and trained", "quantized"]
