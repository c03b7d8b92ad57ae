"""The checkpoints in results/, on which figures in the README rest: they have to give them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from src.checkpoint import load_network
from src.config import DeviceConfig, EvalConfig, parse_train
from src.evaluation import evaluate_checkpoint
from src.summary import summarize, totals
from tests.conftest import ROOT

RUNS = sorted(path.parent for path in (ROOT / "results").glob("*/result.json"))
WITH_CHECKPOINT = [run for run in RUNS if (run / "best.ckpt").is_file()]


def result_of(run: Path) -> dict:
    return json.loads((run / "result.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_a_run_can_be_repeated_from_its_folder_and_the_readme_has_its_figure(run):
    config = parse_train(["--config", str(run / "config.yaml")], "")
    config.check()
    assert config.data.data_path == "./data"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (row,) = [line for line in readme.splitlines() if line.startswith(f"| `{run.name}` |")]
    assert f"| {result_of(run)['test']['accuracy']:.2%} |" in row


def test_a_trained_net_is_shipped():
    assert WITH_CHECKPOINT


@pytest.mark.parametrize("run", WITH_CHECKPOINT, ids=lambda run: run.name)
def test_a_shipped_checkpoint_was_trained_by_the_recipe_in_config(run):
    recipe, trained = (
        parse_train(["--config", str(path)], "") for path in (ROOT / "config" / f"{run.name}.yaml", run / "config.yaml")
    )
    assert recipe == trained


@pytest.mark.parametrize("run", WITH_CHECKPOINT, ids=lambda run: run.name)
def test_a_shipped_checkpoint_is_the_net_of_its_result(run):
    net, card = load_network(run / "best.ckpt")
    result = result_of(run)
    assert totals(summarize(net, card.preprocessing.image_size)) == (result["parameters"], result["multiply_adds"])
    assert result["parameters"] <= 750_000
    assert (run / "best.ckpt").stat().st_size < 3_000_000


@pytest.mark.slow
@pytest.mark.cifar10
@pytest.mark.parametrize("run", WITH_CHECKPOINT, ids=lambda run: run.name)
def test_a_shipped_checkpoint_has_its_accuracy_on_the_real_test_images(run, real_cifar10, tmp_path):
    config = EvalConfig(ckpt_path=str(run / "best.ckpt"), data_path=str(real_cifar10), output_path=str(tmp_path / "e"))
    found = evaluate_checkpoint(config, DeviceConfig(device_target="CPU"))
    assert found["images"] == 10_000
    # Another processor adds in another order, which may turn an image or two.
    assert found["accuracy"] == pytest.approx(result_of(run)["test"]["accuracy"], abs=3e-4)
