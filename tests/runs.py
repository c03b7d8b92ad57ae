"""Trainings small enough for tests: configurations, one finished run for all tests, and what a run leaves."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Iterator, get_type_hints

import numpy as np
import pytest

from src import visualize
from src.checkpoint import read_checkpoint
from src.cli import signals
from src.config import DeviceConfig, TrainConfig
from src.training.run import train

CPU = DeviceConfig(device_target="CPU")
DIGITS = {"dataset": "digits", "version": "cifar", "image_size": 16, "batch_size": 16, "device_target": "CPU"}
BRIEF = {**DIGITS, "epochs": 1, "warmup_epochs": 0, "train_images": 64, "scalars": "none"}
# 4 steps an epoch, 3 epochs, on 64 of scikit-learn's digits.
SMALL = {
    **{"dataset": "digits", "version": "cifar", "base_e": 16, "incr_e": 16, "image_size": 12, "batch_size": 16},
    **{"train_images": 64, "val_split": 0.2, "device_target": "CPU", "scalars": "none"},
    **{"epochs": 3, "warmup_epochs": 1, "log_steps": 3, "lr_max": 0.02},
}


def configuration(**keys) -> TrainConfig:
    """Return a training configuration with these keys, whatever concern each belongs to."""
    concerns = get_type_hints(TrainConfig)
    names = {name: {field.name for field in dataclasses.fields(kind)} for name, kind in concerns.items()}
    assert keys.keys() <= set().union(*names.values())
    return TrainConfig(
        **{name: kind(**{k: v for k, v in keys.items() if k in names[name]}) for name, kind in concerns.items()}
    )


@contextlib.contextmanager
def without_pictures() -> Iterator[pytest.MonkeyPatch]:
    """Leave out the pictures, which take as long as the training of a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visualize, "image_grid", lambda *arguments, **options: None)
        patch.setattr(visualize, "save", lambda figure, path: None)
        yield patch


def tiny_run(folder: Path) -> SimpleNamespace:
    """Train a small net on the digits, pictures and all: folder, config, result, output, figures by file name."""
    config = configuration(
        **{**DIGITS, "batch_norm": "all", "optimizer": "adam", "lr_max": 0.004, "lr_decay_mode": "cosine"},
        **{"train_images": 480, "val_split": 0.1, "epochs": 3, "warmup_epochs": 1, "log_steps": 10},
        **{"keep_checkpoint_max": 2, "output_path": str(folder)},
    )
    config.check()
    output, figures, save = io.StringIO(), {}, visualize.save

    def saved(figure, path):
        figures[path.name] = figure
        save(figure, path)

    with contextlib.redirect_stdout(output), pytest.MonkeyPatch.context() as patch:
        patch.setattr(visualize, "save", saved)
        result = train(config)
    return SimpleNamespace(folder=folder, config=config, result=result, output=output.getvalue(), figures=figures)


def metrics_rows(folder: Path) -> list[dict]:
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def weights(net) -> dict[str, np.ndarray]:
    return {parameter.name: parameter.asnumpy().copy() for parameter in net.get_parameters()}


def stop_at(monkeypatch, step: int | None) -> None:
    """Have a SIGTERM come during a step, or none."""
    from src.training.checkpoints import Checkpoints

    seen = {"step": 0}
    original = Checkpoints.on_train_step_end

    def noting(self, run_context):
        seen["step"] = run_context.original_args().cur_step_num
        original(self, run_context)

    monkeypatch.setattr(Checkpoints, "on_train_step_end", noting)
    monkeypatch.setattr(signals, "received", lambda: signal.SIGTERM if seen["step"] == step else 0)


def content(folder: Path) -> dict:
    """Return all of a run that has to be the same whether it was stopped or not."""
    found: dict = {"metrics.csv": [{**row, "seconds": None} for row in metrics_rows(folder)]}
    for name in ("squeezenet.ckpt", "best.ckpt"):
        if (folder / name).is_file():
            held = read_checkpoint(folder / name)
            found.update({f"{name} {key}": value.asnumpy().tobytes() for key, value in held.items()})
    result = json.loads((folder / "result.json").read_text())
    found.update({key: result[key] for key in ("validation", "test", "checkpoint", "steps", "broken_images")})
    return found


def assert_same(run: Path, reference: Path) -> None:
    found, expected = content(run), content(reference)
    assert found.keys() == expected.keys()
    assert [key for key in expected if found[key] != expected[key]] == []
